//! Where operators are answered: an address, or a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

/// A listener for operators.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdminListen {
    /// TCP.
    Address(SocketAddr),
    /// A Unix socket, which its place in the file system guards. Absolute.
    Unix(PathBuf),
}

impl AdminListen {
    /// Whether only this machine can reach it.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Neither an address and port nor a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("neither an address and port nor unix: and an absolute path")]
pub struct AdminListenError;

impl FromStr for AdminListen {
    type Err = AdminListenError;

    fn from_str(text: &str) -> Result<Self, AdminListenError> {
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('/') && !path.contains('\0') => {
                Ok(Self::Unix(PathBuf::from(path)))
            }
            Some(_) => Err(AdminListenError),
            None => text.parse().map(Self::Address).map_err(|_| AdminListenError),
        }
    }
}

impl TryFrom<String> for AdminListen {
    type Error = AdminListenError;

    fn try_from(text: String) -> Result<Self, AdminListenError> {
        text.parse()
    }
}

impl From<AdminListen> for String {
    fn from(listen: AdminListen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}
