//! Why bytes are not a request.
//!
//! One flat, one-byte enum for all transports: the variant is the cause, the metric label and the
//! name of its test. What the peer hears about it, if anything, is decided in `tracker`.

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum ParseError {
    /// UDP: shorter than its action needs: 16 bytes connect, 98 announce, 16 scrape (BEP 15).
    Truncated,
    /// UDP: a 16-byte connect without the protocol magic.
    BadMagic,
    /// UDP: `action` is not 0, 1 or 2.
    UnknownAction,
    /// HTTP: not a request head as RFC 9112 has it, or one that could be read in two ways.
    BadRequest,
    /// HTTP: the head is longer, or has more fields, than the bounds.
    HeadTooLarge,
    /// HTTP: neither GET nor HEAD.
    MethodNotAllowed,
    /// HTTP: the path is neither an announce nor a scrape.
    NotFound,
    /// HTTP announce or scrape: no `info_hash`.
    MissingInfoHash,
    /// HTTP announce: more than one `info_hash`.
    SeveralInfoHashes,
    /// HTTP: an `info_hash` that does not decode to exactly 20 bytes.
    BadInfoHash,
    /// HTTP announce: no `peer_id`, or one that does not decode to exactly 20 bytes.
    BadPeerId,
    /// HTTP announce: no `port`, or not a number from 0 to 65535.
    BadPort,
    /// HTTP: a trusted proxy does not say who the client is, or not so that it can be read.
    BadForwarded,
    /// WebSocket: no opening handshake (RFC 6455 section 4.2.1).
    BadUpgrade,
    /// WebSocket: a handshake of another version than 13.
    UpgradeRequired,
    /// WebSocket: not one JSON object, or nested too deep.
    BadJson,
    /// WebSocket: `action` is neither `announce` nor `scrape`.
    BadAction,
    /// WebSocket: an offer or an answer that is no object, or whose `offer_id` is no string of 1 to
    /// 64 characters, or that is for nobody.
    BadOffer,
}

impl ParseError {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 18] = [
        Self::Truncated,
        Self::BadMagic,
        Self::UnknownAction,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::MethodNotAllowed,
        Self::NotFound,
        Self::MissingInfoHash,
        Self::SeveralInfoHashes,
        Self::BadInfoHash,
        Self::BadPeerId,
        Self::BadPort,
        Self::BadForwarded,
        Self::BadUpgrade,
        Self::UpgradeRequired,
        Self::BadJson,
        Self::BadAction,
        Self::BadOffer,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadMagic => "bad_magic",
            Self::UnknownAction => "unknown_action",
            Self::BadRequest => "bad_request",
            Self::HeadTooLarge => "head_too_large",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotFound => "not_found",
            Self::MissingInfoHash => "missing_info_hash",
            Self::SeveralInfoHashes => "several_info_hashes",
            Self::BadInfoHash => "bad_info_hash",
            Self::BadPeerId => "bad_peer_id",
            Self::BadPort => "bad_port",
            Self::BadForwarded => "bad_forwarded",
            Self::BadUpgrade => "bad_upgrade",
            Self::UpgradeRequired => "upgrade_required",
            Self::BadJson => "bad_json",
            Self::BadAction => "bad_action",
            Self::BadOffer => "bad_offer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_variant_at_its_own_index() {
        let (_, body) = include_str!("error.rs").split_once("pub enum ParseError {").expect("it");
        let (body, _) = body.split_once("\n}").expect("its end");
        let is_variant = |line: &&str| line.trim_start().starts_with(|c: char| c.is_uppercase());
        assert_eq!(body.lines().filter(is_variant).count(), ParseError::ALL.len());
        for (index, error) in ParseError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
            assert!(!error.label().is_empty());
        }
    }
}
