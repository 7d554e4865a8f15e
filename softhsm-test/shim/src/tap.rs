//! Writes what passes, when a test listens.
//!
//! Leaves the form to `tapped` and `seen`, and the choice of what passes to the wrappers. A record is one write
//! to a file opened for appending, so records of several threads and processes do not mix.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ULONG, CK_UNAVAILABLE_INFORMATION, CKA_DERIVE_TEMPLATE, CKA_UNWRAP_TEMPLATE,
    CKA_WRAP_TEMPLATE,
};

use crate::counters::Function;
use crate::seen::ObjectSeen;
use crate::tapped::{Direction, Tapped};

/// The two files, when a test listens.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    files: Option<(File, File)>,
}

impl Tap {
    /// Listens when `tap` is there.
    pub(crate) fn open(dir: &Path) -> Tap {
        let open = || {
            let tap = File::options().append(true).open(dir.join("tap")).ok()?;
            let objects = File::options()
                .append(true)
                .create(true)
                .open(dir.join("objects"))
                .ok()?;
            Some((tap, objects))
        };
        Tap { files: open() }
    }

    pub(crate) fn listens(&self) -> bool {
        self.files.is_some()
    }

    pub(crate) fn passed(
        &self,
        function: Function,
        detail: &str,
        direction: Direction,
        bytes: &[u8],
    ) {
        if let Some((tap, _)) = &self.files {
            let mut tap = tap;
            let record = Tapped {
                function: function.name().to_owned(),
                detail: detail.to_owned(),
                direction,
                bytes: bytes.to_vec(),
            };
            complain(tap.write_all(&record.encode()));
        }
    }

    pub(crate) fn seen(&self, object: &ObjectSeen) {
        if let Some((_, objects)) = &self.files {
            let mut objects = objects;
            complain(objects.write_all(format!("{object}\n").as_bytes()));
        }
    }
}

/// Each value of a template that is there, with its attribute, those of inner templates included. `room` is what
/// each buffer of the caller holds at most, in the template's order; without it the template's own lengths count.
///
/// # Safety
/// Each attribute that has a pointer and an available length must point at that many readable bytes, up to
/// its `room`; inner templates likewise.
pub(crate) unsafe fn values(
    template: &[CK_ATTRIBUTE],
    room: Option<&[CK_ULONG]>,
) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    for (index, attribute) in template.iter().enumerate() {
        if attribute.pValue.is_null() || attribute.ulValueLen == CK_UNAVAILABLE_INFORMATION {
            continue;
        }
        let most = room.map_or(CK_ULONG::MAX, |room| room[index]);
        let length = attribute.ulValueLen.min(most) as usize;
        if TEMPLATES.contains(&attribute.type_) {
            let count = length / size_of::<CK_ATTRIBUTE>();
            // SAFETY: the standard has an array of attributes there; readable, as the caller promises.
            let inner = unsafe {
                std::slice::from_raw_parts(attribute.pValue.cast::<CK_ATTRIBUTE>(), count)
            };
            if inner
                .iter()
                .all(|attribute| !TEMPLATES.contains(&attribute.type_))
            {
                // SAFETY: promised by the caller for inner templates as well.
                found.extend(unsafe { values(inner, None) });
            }
            continue;
        }
        // SAFETY: promised by the caller.
        let bytes = unsafe { std::slice::from_raw_parts(attribute.pValue.cast::<u8>(), length) };
        found.push((attribute.type_, bytes.to_vec()));
    }
    found
}

const TEMPLATES: [CK_ULONG; 3] = [CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE];

/// A record that is lost must not pass for silence.
fn complain(written: std::io::Result<()>) {
    if let Err(error) = written {
        eprintln!("pkcs11 shim: the tap is incomplete: {error}");
    }
}
