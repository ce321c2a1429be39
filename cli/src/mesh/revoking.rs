//! What an operator has refused though its certificate verifies.

use reeve_ca::{RevokeError, RevokeTarget};
use reeve_console::{RevokeRequest, TokenRefused};
use reeve_core::error_chain;

use super::view::View;

impl View {
    pub(super) fn change_revocations(&self, request: &RevokeRequest) -> Result<(), TokenRefused> {
        let target = match (&request.id, &request.serial) {
            (Some(id), None) => RevokeTarget::Id(id.clone()),
            (None, Some(serial)) => RevokeTarget::Serial(serial.clone()),
            (Some(_), Some(_)) | (None, None) => {
                return Err(TokenRefused::Request(
                    "name an identity or a serial number".to_owned(),
                ));
            }
        };
        let own = self.settings.mesh_identity();
        if request.id.as_ref() == Some(&own) {
            return Err(TokenRefused::Request(
                "that is the mesh process itself; without it nobody could take it back".to_owned(),
            ));
        }
        let changed = match request.take_back {
            true => self.ca.unrevoke(target, &*self.events),
            false => self
                .ca
                .revoke(target, &request.why, request.until, &*self.events),
        };
        changed.map_err(|error| match error {
            RevokeError::Authority(_) => TokenRefused::Ourselves(error_chain(&error)),
            RevokeError::Already
            | RevokeError::NotRevoked
            | RevokeError::Full
            | RevokeError::NotOurs(_)
            | RevokeError::Serial
            | RevokeError::Why
            | RevokeError::Past => TokenRefused::Request(error.to_string()),
        })
    }
}
