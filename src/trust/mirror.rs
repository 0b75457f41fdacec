//! Where signed files come from, and why there is none: a broker, a web server, a folder. Nobody
//! has to trust it.

/// One copy of the fleet's repository. What it hands over is proven or refused by what asked.
pub trait Mirror {
    /// A metadata file by its name, such as `2.root.json`; delegated roles' names are
    /// percent-encoded. `None`: it isn't there. Reads no more than `limit` bytes.
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError>;

    /// A target by its path in the repository, such as `realms/dev/{hash}.jwks.json`.
    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError>;
}

/// Why a mirror can't say what it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// Network, broker, disk: what may work the next time.
    #[error("{0}")]
    Unreachable(String),
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
}
