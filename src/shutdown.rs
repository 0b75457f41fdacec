//! Going down in order: stop taking work, let what runs finish until a deadline, then stop it.

use tokio_util::sync::CancellationToken;

/// Handed to every long-running part. Two steps: `draining` (take no new work), then `ended`
/// (drop what is left).
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    ended: CancellationToken,
}

impl Shutdown {
    /// Asks everybody to take no new work.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Asks everybody to stop now.
    pub fn end(&self) {
        self.draining.cancel();
        self.ended.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves once no new work is to be taken.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves once everything is to stop.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}
