//! The trust bundle in files, for whoever cannot follow it: who joins, and who verifies the audit log.

use std::{path::PathBuf, time::Duration};

use reeve_svid::{BundleDocument, TrustBundle};

use super::CaError;

/// The file beside the bundle's that has every root there was, to verify what they once vouched for.
const HISTORY: &str = "roots.pem";

/// The file beside the bundle's that has it in the SPIFFE bundle format, with the keys of JWT-SVIDs.
const DOCUMENT: &str = "bundle.json";
/// How often its readers are to look for a newer one.
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// Where the bundle is kept up to date, if anywhere.
#[derive(Default)]
pub(super) struct Published(Option<PathBuf>);

impl Published {
    /// In a file, which has the present bundle when this returns; beside it [`HISTORY`], every root there
    /// was, and [`DOCUMENT`].
    pub(super) fn at(
        path: PathBuf,
        bundle: &TrustBundle,
        history: &TrustBundle,
    ) -> Result<Self, CaError> {
        let this = Self(Some(path));
        this.renew(bundle, history)?;
        Ok(this)
    }

    /// Replaces the files, each as a whole; a crash leaves the old one or the new one.
    pub(super) fn renew(&self, bundle: &TrustBundle, history: &TrustBundle) -> Result<(), CaError> {
        let Some(path) = &self.0 else {
            return Ok(());
        };
        let document = BundleDocument {
            bundle: bundle.clone(),
            refresh_hint: Some(REFRESH_HINT),
        };
        for (path, text) in [
            (path.with_file_name(HISTORY), history.to_pem()),
            (path.with_file_name(DOCUMENT), document.to_json()),
            (path.clone(), bundle.to_pem()),
        ] {
            reeve_files::replace(&path, text.as_bytes())
                .map_err(|source| CaError::Publish { path, source })?;
        }
        Ok(())
    }
}
