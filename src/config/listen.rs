//! An HTTP listener as it is written: an address, and words for what is special about it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// "0.0.0.0:443 tls": where to listen, and what stands between a client and HTTP there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpListen {
    /// The address and the port.
    pub address: SocketAddr,
    /// `tls`: clients speak TLS.
    pub tls: bool,
    /// `proxy_protocol`: a trusted proxy says first on each connection who the client is.
    pub proxy_protocol: bool,
    /// `forwarded`: a trusted proxy says in each request who the client is.
    pub forwarded: bool,
}

/// Why a text is no listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no listener")]
pub struct ListenError;

impl HttpListen {
    /// A plain listener.
    pub const fn plain(address: SocketAddr) -> Self {
        Self { address, tls: false, proxy_protocol: false, forwarded: false }
    }

    /// Whether it is for the connections of proxies.
    pub const fn is_proxied(&self) -> bool {
        self.proxy_protocol || self.forwarded
    }
}

impl FromStr for HttpListen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let mut words = text.split_ascii_whitespace();
        let address = words.next().and_then(|address| address.parse().ok()).ok_or(ListenError)?;
        let mut listen = Self::plain(address);
        for word in words {
            let option = match word {
                "tls" => &mut listen.tls,
                "proxy_protocol" => &mut listen.proxy_protocol,
                "forwarded" => &mut listen.forwarded,
                _ => return Err(ListenError),
            };
            if std::mem::replace(option, true) {
                return Err(ListenError);
            }
        }
        Ok(listen)
    }
}

impl fmt::Display for HttpListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        let words = [
            (self.tls, "tls"),
            (self.proxy_protocol, "proxy_protocol"),
            (self.forwarded, "forwarded"),
        ];
        words.iter().filter(|(is_set, _)| *is_set).try_for_each(|(_, word)| write!(f, " {word}"))
    }
}

impl TryFrom<String> for HttpListen {
    type Error = ListenError;

    fn try_from(text: String) -> Result<Self, ListenError> {
        text.parse()
    }
}

impl From<HttpListen> for String {
    fn from(listen: HttpListen) -> Self {
        listen.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_address_in_any_order_and_once() {
        let listen: HttpListen = "[::1]:443   forwarded tls".parse().expect("a listener");
        assert!(listen.tls && listen.forwarded && !listen.proxy_protocol);
        assert_eq!(listen.to_string(), "[::1]:443 tls forwarded");
        assert_eq!(listen.to_string().parse(), Ok(listen));
        for bad in ["", "tls", "1.2.3.4 tls", "1.2.3.4:5 ssl", "1.2.3.4:5 tls tls", "1.2.3.4:5,tls"]
        {
            assert_eq!(bad.parse::<HttpListen>(), Err(ListenError), "{bad}");
        }
    }
}
