//! An established connection as pure values: what arrives, what leaves, what is tolerated, and the next keys.
//!
//! No I/O and no clock: the pump next door moves bytes and says what time it is. Keys are replaced only at a record
//! boundary and only by the next generation.

mod caps;
mod inbound;
mod outbound;
mod rekey;

pub use caps::{Caps, KeyUpdateBudget};
pub use inbound::{Batch, Event, Inbound};
pub use outbound::{BUFFER_LEN, Outbound, OutboundError, SLOTS};
pub use rekey::{NextKey, RekeyError, Rekeying};

use keyhaven_types::alert;

use crate::flight::Refused;

/// Why an established connection ends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The client broke a rule and gets an alert.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The client sent a fatal alert and gets no answer.
    #[error("the client ended the connection with alert {0} {name}", name = alert::name(*.0))]
    ClientAlert(u8),
}

impl From<crate::record::RecordError> for Fault {
    fn from(error: crate::record::RecordError) -> Self {
        Self::Refused(error.into())
    }
}
