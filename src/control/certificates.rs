//! Certificates: files to what TLS needs, and what is wrong with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::finding::{Finding, Level};

/// Seconds before its end from which a certificate is worth a warning.
const SOON_SECONDS: i64 = 14 * 24 * 3_600;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or is no PEM.
    #[error("{}: {}", path.display(), say(source))]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{}: there is no certificate in it", path.display())]
    Empty {
        /// Which one.
        path: PathBuf,
    },
    /// A certificate and a key that do not belong together, or of a kind that we do not know.
    #[error("{} and {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate that nobody will accept.
    #[error("{}: {flaw}", path.display())]
    Flaw {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        flaw: String,
    },
    /// The library does not accept our settings.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

/// What is wrong with a file in PEM; the library's own words have numbers for the file's.
fn say(error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { end_marker } => {
            format!("the end of its {} is missing", end_marker.escape_ascii())
        }
        Error::IllegalSectionStart { .. } => "a line that begins with ----- is broken".to_owned(),
        Error::NoItemsFound => "there is no key in it".to_owned(),
        other => other.to_string(),
    }
}

/// When a certificate ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct End {
    /// Its file.
    pub path: PathBuf,
    /// Seconds since 1970.
    pub at: i64,
}

/// Certificates that can be used, and what is odd about them all the same.
#[derive(Debug)]
pub struct Loaded {
    /// What connections need.
    pub config: Arc<ServerConfig>,
    /// What an operator should know: a certificate that ends soon, a chain with a gap.
    pub warnings: Vec<String>,
    /// When they end, in their order.
    pub ends: Vec<End>,
}

/// What is wrong with certificates that have been in use for long, at `now`, seconds since 1970.
#[must_use]
pub fn finding(ends: &[End], now: i64) -> Option<Finding> {
    let End { path, at } = ends.iter().min_by_key(|end| end.at)?;
    let (level, verb) = match at - now {
        ..0 => (Level::Problem, "ended"),
        0..SOON_SECONDS => (Level::Warning, "ends"),
        _ => return None,
    };
    let when = ASN1Time::from_timestamp(*at).map_or_else(|_| at.to_string(), |at| at.to_string());
    let detail = format!("{}: the certificate {verb} on {when}.", path.display());
    let remedy = "Renew it, and send SIGHUP (systemctl reload throng): no connection is closed.";
    Some(Finding::new(level, "certificates", detail, remedy.to_owned()))
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// Loads `pairs` of files, each a certificate with its chain and a key, in PEM.
///
/// # Errors
/// The first thing that makes them useless; nothing is in force then.
pub fn load(pairs: &[(&Path, &Path)]) -> Result<Loaded, CertificateError> {
    let provider = Arc::new(default_provider());
    let now = now();
    let (mut warnings, mut ends) = (Vec::new(), Vec::new());
    let mut keys = Vec::new();
    for (certificate, key) in pairs {
        keys.push(Arc::new(load_pair(certificate, key, &provider)?));
        let chain = &keys[keys.len() - 1].cert;
        let at = judge(certificate, chain, now, &mut warnings)?;
        ends.push(End { path: certificate.to_path_buf(), at });
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(keys)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(Loaded { config: Arc::new(config), warnings, ends })
}

fn load_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::File { path, source }
    };
    // The library's own reader says less about what cannot be opened.
    let read =
        |path: &Path| fs::read(path).map_err(rustls::pki_types::pem::Error::Io).map_err(file(path));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(file(certificate))?;
    if chain.is_empty() {
        return Err(CertificateError::Empty { path: certificate.to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(file(key))?;
    CertifiedKey::from_der(chain, secret, provider).map_err(|source| CertificateError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}

/// Looks at dates and signatures of a chain. Returns when its first, the tracker's own, ends: what
/// is behind it may have been there for clients of another time.
fn judge(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: i64,
    warnings: &mut Vec<String>,
) -> Result<i64, CertificateError> {
    let flaw = |flaw: &str| CertificateError::Flaw { path: path.to_owned(), flaw: flaw.to_owned() };
    let parse = |der: &CertificateDer<'_>| X509Certificate::from_der(der).is_ok();
    if !chain.iter().all(parse) {
        return Err(flaw("a certificate in it cannot be read"));
    }
    let parsed: Vec<X509Certificate<'_>> = chain
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .map(|(_, certificate)| certificate)
        .collect();
    let validity = parsed[0].validity();
    if validity.not_after.timestamp() < now {
        return Err(flaw(&format!("the certificate ended on {}", validity.not_after)));
    }
    if validity.not_before.timestamp() > now {
        return Err(flaw(&format!("the certificate begins on {}", validity.not_before)));
    }
    let mut warn = |text: &str| warnings.push(format!("{}: {text}", path.display()));
    for (place, certificate) in parsed.iter().enumerate() {
        let end = certificate.validity().not_after;
        let which = if place == 0 { "the certificate" } else { "a certificate of the chain" };
        if end.timestamp() < now {
            warn(&format!("{which} ended on {end}"));
        } else if end.timestamp() - now < SOON_SECONDS {
            warn(&format!("{which} ends on {end}: renew it"));
        }
    }
    for pair in parsed.windows(2) {
        if pair[0].issuer() != pair[1].subject()
            || pair[0].verify_signature(Some(pair[1].public_key())).is_err()
        {
            warn("the chain has a gap: a certificate is not signed by the one behind it");
        }
    }
    Ok(validity.not_after.timestamp())
}

/// Chooses a certificate by the host that a client names.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let certificate = key.cert.first().map(EndEntityCert::try_from);
            match (&name, certificate) {
                (Some(name), Some(Ok(certificate))) => {
                    certificate.verify_is_valid_for_subject_name(name).is_ok()
                }
                _ => false,
            }
        };
        // With one there is no choice, and an old client may name nothing.
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_first_is_told_two_weeks_before() {
        let now = 1_800_000_000;
        let end = |name: &str, left: i64| End { path: name.into(), at: now + left };
        let told = |ends: &[End]| finding(ends, now).map(|finding| (finding.level, finding.detail));
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[end("a", SOON_SECONDS), end("b", SOON_SECONDS + 1)]), None);
        let (level, detail) =
            told(&[end("a", SOON_SECONDS), end("b", SOON_SECONDS - 1)]).expect("b");
        assert_eq!(level, Level::Warning);
        assert!(detail.starts_with("b: the certificate ends on Jan 29 07:59:59 2027"), "{detail}");
        let (level, detail) = told(&[end("a", -1), end("b", 5)]).expect("a");
        assert_eq!(level, Level::Problem);
        assert!(detail.starts_with("a: the certificate ended on Jan 15"), "{detail}");
    }
}
