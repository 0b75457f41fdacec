//! How much a mirror may make us read, and how exact signed metadata must be.

/// For metadata and targets alike: what fits a record of the store.
const RECORD: u64 = 56 << 10;

/// Bounds of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file of each role.
    pub root: u64,
    pub timestamp: u64,
    pub snapshot: u64,
    pub targets: u64,
    /// Bytes of one target; what its metadata says is the limit where that is less.
    pub target: u64,
    /// New roots in one refresh. The next one goes on from there.
    pub rotations: u64,
    /// Roles that one search visits, and that one role delegates to.
    pub delegations: usize,
    /// Whether what TUF leaves open is refused: key ids that aren't their keys', delegated roles
    /// that list what they weren't delegated.
    pub strict: bool,
}

impl Limits {
    /// A device's.
    pub const FLEET: Limits = Limits {
        root: RECORD,
        timestamp: RECORD,
        snapshot: RECORD,
        targets: RECORD,
        target: RECORD,
        rotations: 64,
        delegations: 16,
        strict: true,
    };

    /// python-tuf's, by which the public conformance suite judges.
    pub const REFERENCE: Limits = Limits {
        root: 512_000,
        timestamp: 16_384,
        snapshot: 2_000_000,
        targets: 5_000_000,
        target: 50_000_000,
        rotations: 256,
        delegations: 32,
        strict: false,
    };
}
