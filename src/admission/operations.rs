//! What needs no engine: reads and cancels. Each principal has a rate for each kind of them; reads
//! are counted in the audit rather than recorded one by one, so that who looks often pushes nothing
//! out of it.

use std::sync::Arc;

use super::{Admission, Recorded};
use crate::auth::{Credential, Permitted};
use crate::prompt::{Cancel, Look, Request};
use crate::reason::Refusal;

impl Admission {
    /// Decides and records a look.
    pub async fn authorize(
        &self,
        credential: Credential,
        request: Request<Look>,
    ) -> Result<Recorded<Permitted>, Recorded<Refusal>> {
        self.permit(credential, request.split().0).await
    }

    async fn permit(
        &self,
        credential: Credential,
        request: Request,
    ) -> Result<Recorded<Permitted>, Recorded<Refusal>> {
        let request = Arc::new(request);
        let permitted = self.decide(&credential, &request).await?;
        let recorded = self.record_operation(permitted.clone()).await;
        recorded.map_err(|refusal| self.0.recorder.refused(&permitted, refusal))
    }

    /// Stops the principal's own request with this correlation data, which runs or waits; says
    /// whether there was one.
    pub async fn cancel(
        &self,
        credential: Credential,
        request: Request<Cancel>,
    ) -> Result<bool, Recorded<Refusal>> {
        let (request, Cancel { correlation }) = request.split();
        let permitted = self.permit(credential, request).await?;
        let principal = &permitted.grant().principal;
        Ok(self.0.running.cancel(principal, &correlation))
    }

    /// Takes one of the administrator's turns to change something.
    pub fn take_admin_turn(&self, uid: u32) -> Result<(), Refusal> {
        self.0.limits.take_admin_turn(uid)
    }

    async fn record_operation(&self, permitted: Permitted) -> Result<Recorded<Permitted>, Refusal> {
        self.0.limits.take_turn(&permitted)?;
        let proof = self.claim_proof(&permitted)?;
        self.0.recorder.operation(permitted, proof).await
    }
}
