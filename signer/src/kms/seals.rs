//! What sealed rekey states call a managed key: its id and version themselves, and no hash that would have to be looked up.
//!
//! So a state is good at each signer that shares the seal, also after a restart, and nothing is kept for it. The seal
//! itself keeps others from writing such names. Invariant: no name of a site in the file reads as one of a managed key.

use aws_lc_rs::digest;
use keyhaven_types::KeyId;

/// The name of a version: id, version, and a check that tells it from the hashes that other sites are called by.
pub(super) fn name(id: KeyId, version: u32) -> [u8; 32] {
    let mut name = [0; 32];
    name[..ID].copy_from_slice(&id.0);
    name[ID..CHECK].copy_from_slice(&version.to_be_bytes());
    let text = [&b"keyhaven managed key\0"[..], &name[..CHECK]].concat();
    let check = digest::digest(&digest::SHA256, &text);
    name[CHECK..].copy_from_slice(&check.as_ref()[..32 - CHECK]);
    name
}

/// The version that a name is of; nothing for any other name.
pub(super) fn read(seal: &[u8; 32]) -> Option<(KeyId, u32)> {
    let (id, rest) = seal.split_first_chunk::<ID>()?;
    let (version, _) = rest.split_first_chunk()?;
    let (id, version) = (KeyId(*id), u32::from_be_bytes(*version));
    (name(id, version) == *seal).then_some((id, version))
}

/// Bytes of an id.
const ID: usize = 16;
/// Where the check begins.
const CHECK: usize = ID + 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::seal_id;

    #[test]
    fn a_name_gives_its_version_back_and_nothing_else_does() {
        let name = name(KeyId([7; 16]), 3);
        assert_eq!(read(&name), Some((KeyId([7; 16]), 3)));
        for at in 0..name.len() {
            let mut altered = name;
            altered[at] ^= 1;
            assert_eq!(read(&altered), None, "{at}");
        }
        assert_eq!(read(&seal_id(&[1; 32], &[2; 32])), None);
    }
}
