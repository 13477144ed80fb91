//! Clients that do nothing but shake hands, while the server's certificate is replaced.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

/// Handshakes under way at once, at the most.
const UNDER_WAY: usize = 64;
const HOST: &str = "localhost";

/// Two certificates, and the files from which the server has the one of them.
pub struct Certificates {
    folder: TempDir,
    keys: [CertifiedKey<KeyPair>; 2],
}

impl Certificates {
    pub fn new() -> Self {
        let keys = [(); 2].map(|()| {
            generate_simple_self_signed([HOST.to_owned()]).expect("a certificate of our own")
        });
        let certificates = Self { folder: tempfile::tempdir().expect("a folder"), keys };
        certificates.write(0);
        certificates
    }

    /// The files of certificate and key.
    pub fn paths(&self) -> [PathBuf; 2] {
        ["certificate.pem", "key.pem"].map(|name| self.folder.path().join(name))
    }

    /// Puts one of the certificates there.
    pub fn write(&self, which: usize) {
        let key = &self.keys[which];
        self.write_text(&key.cert.pem(), &key.signing_key.serialize_pem());
    }

    /// The certificate is cut short.
    pub fn write_truncated(&self) {
        let text = self.keys[1].cert.pem();
        self.write_text(&text[..text.len() / 2], &self.keys[1].signing_key.serialize_pem());
    }

    /// The key is another certificate's.
    pub fn write_mismatch(&self) {
        self.write_text(&self.keys[1].cert.pem(), &self.keys[0].signing_key.serialize_pem());
    }

    fn write_text(&self, certificate: &str, key: &str) {
        for (path, text) in self.paths().iter().zip([certificate, key]) {
            std::fs::write(path, text).expect("a file");
        }
    }
}

/// The clients.
pub struct Handshakes {
    target: SocketAddr,
    config: Arc<ClientConfig>,
    leaves: [CertificateDer<'static>; 2],
    per_second: u64,
    began: Instant,
    scheduled: u64,
    under_way: Vec<(ClientConnection, TcpStream)>,
    /// Those that were completed with each of the certificates.
    pub done: [u64; 2],
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Handshakes {
    pub fn new(certificates: &Certificates, target: SocketAddr, per_second: u64) -> Self {
        let leaves = [0, 1].map(|which: usize| certificates.keys[which].cert.der().clone());
        let mut roots = RootCertStore::empty();
        for leaf in &leaves {
            roots.add(leaf.clone()).expect("a certificate");
        }
        let mut config =
            ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // Each one from the beginning.
        config.resumption = Resumption::disabled();
        let (began, under_way) = (Instant::now(), Vec::new());
        let (config, failures) = (Arc::new(config), Vec::new());
        let (scheduled, done) = (0, [0; 2]);
        Self { target, config, leaves, per_second, began, scheduled, under_way, done, failures }
    }

    /// Begins what is due and goes on with the others.
    pub fn turn(&mut self) {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).expect("minutes");
        let due = nanos / 1_000 * self.per_second / 1_000_000;
        while self.scheduled < due && self.under_way.len() < UNDER_WAY {
            self.scheduled += 1;
            let name = ServerName::try_from(HOST).expect("a name");
            let tls = ClientConnection::new(self.config.clone(), name).expect("a client");
            let stream = TcpStream::connect(self.target).expect("it listens");
            stream.set_nonblocking(true).expect("an option");
            self.under_way.push((tls, stream));
        }
        // What had no room is not caught up on.
        self.scheduled = self.scheduled.max(due);
        for at in (0..self.under_way.len()).rev() {
            let (tls, stream) = &mut self.under_way[at];
            match step(tls, stream) {
                Ok(false) => {}
                Ok(true) => {
                    let leaf = tls.peer_certificates().and_then(<[_]>::first);
                    let which = self.leaves.iter().position(|ours| Some(ours) == leaf);
                    self.done[which.expect("one of the two")] += 1;
                    self.under_way.swap_remove(at);
                }
                Err(error) => {
                    self.failures.push(error);
                    self.under_way.swap_remove(at);
                }
            }
        }
    }
}

/// Goes on with a handshake; returns whether it is complete.
fn step(tls: &mut ClientConnection, stream: &mut TcpStream) -> Result<bool, String> {
    if tls.wants_write() {
        done(tls.write_tls(stream as &mut dyn Write))?;
    }
    if tls.is_handshaking() && tls.wants_read() {
        if done(tls.read_tls(stream as &mut dyn Read))? == Some(0) {
            return Err("closed in the middle of a handshake".to_owned());
        }
        tls.process_new_packets().map_err(|error| error.to_string())?;
    }
    Ok(!tls.is_handshaking() && !tls.wants_write())
}

/// `None` where it would have to wait.
fn done(result: std::io::Result<usize>) -> Result<Option<usize>, String> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
