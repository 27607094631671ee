//! Why something that takes several answers of the gateway could not be shown.

use std::io;

use crate::api::ClientError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShowError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Output(#[from] io::Error),
}
