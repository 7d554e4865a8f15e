//! Random bytes where a value could not be derived.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Bytes in place of a value that could not be derived; nothing that is made with them is ever sent.
pub(crate) fn stand_in(len: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; len]);
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}
