//! A derivation from altered parameters: what a token that computes wrongly would give.
//!
//! Leaves the derivation to the real module, so the result is a good object with the wrong value. The caller's
//! own parameters are never written to. A mechanism that is not known here cannot be altered, and then the call
//! must fail rather than pass unaltered.

use std::any::Any;

use cryptoki_sys::*;

use crate::names::{
    CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE, CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH,
};

/// A mechanism and a base key in place of the caller's.
pub(crate) struct Altered {
    pub(crate) mechanism: CK_MECHANISM,
    pub(crate) base: CK_OBJECT_HANDLE,
    /// What the mechanism points at.
    _kept: Vec<Box<dyn Any>>,
}

impl Altered {
    fn new<P: 'static>(
        kind: CK_MECHANISM_TYPE,
        base: CK_OBJECT_HANDLE,
        parameters: P,
        bytes: Vec<u8>,
    ) -> Altered {
        let mut parameters = Box::new(parameters);
        Altered {
            mechanism: CK_MECHANISM {
                mechanism: kind,
                pParameter: std::ptr::from_mut(parameters.as_mut()).cast(),
                ulParameterLen: size_of::<P>() as CK_ULONG,
            },
            base,
            // The vector's bytes stay where they are when the vector itself moves.
            _kept: vec![parameters, Box::new(bytes)],
        }
    }
}

/// The caller's parameters, of which one byte string is altered.
macro_rules! with {
    ($mechanism:ident, $base:ident, $type:ty, |$p:ident| $pointer:expr, $length:expr) => {{
        // SAFETY: the caller owes parameters of this type; `of` looks at their length.
        let mut $p = unsafe { of::<$type>($mechanism) }?;
        // SAFETY: the pointer and the length belong together, as the caller promises.
        let mut bytes = unsafe { flipped($pointer, $length) };
        $pointer = bytes.as_mut_ptr();
        $length = bytes.len() as CK_ULONG;
        Some(Altered::new($mechanism.mechanism, $base, $p, bytes))
    }};
}

/// The derivation to be done in place of this one.
///
/// # Safety
/// The mechanism must be as the caller owes it to a module: parameters of the mechanism's type, pointers and
/// lengths that belong together.
pub(crate) unsafe fn altered(mechanism: &CK_MECHANISM, base: CK_OBJECT_HANDLE) -> Option<Altered> {
    let kind = mechanism.mechanism;
    match kind {
        // SAFETY: promised by the caller.
        CKM_HKDF_DERIVE | CKM_HKDF_DATA => unsafe { altered_hkdf(mechanism, base) },
        CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE => {
            // SAFETY: promised by the caller.
            let mut p = unsafe { of::<CK_ECDH1_DERIVE_PARAMS>(mechanism) }?;
            let mut point = other_point(p.ulPublicDataLen as usize)?;
            p.pPublicData = point.as_mut_ptr();
            p.ulPublicDataLen = point.len() as CK_ULONG;
            Some(Altered::new(kind, base, p, point))
        }
        CKM_CONCATENATE_BASE_AND_DATA | CKM_CONCATENATE_DATA_AND_BASE | CKM_XOR_BASE_AND_DATA => {
            with!(
                mechanism,
                base,
                CK_KEY_DERIVATION_STRING_DATA,
                |p| p.pData,
                p.ulLen
            )
        }
        CKM_CONCATENATE_BASE_AND_KEY => {
            // The two keys in the wrong order. SAFETY: promised by the caller.
            let second = unsafe { of::<CK_OBJECT_HANDLE>(mechanism) }?;
            Some(Altered::new(kind, second, base, Vec::new()))
        }
        CKM_EXTRACT_KEY_FROM_KEY => {
            // SAFETY: promised by the caller.
            let bit = unsafe { of::<CK_EXTRACT_PARAMS>(mechanism) }?;
            let other = if bit >= 8 { bit - 8 } else { bit + 8 };
            Some(Altered::new(kind, base, other, Vec::new()))
        }
        // SAFETY: promised by the caller.
        _ => unsafe { altered_tls(mechanism, base) },
    }
}

/// Another info, or, where nothing is expanded, another salt.
///
/// # Safety
/// As for [`altered`].
unsafe fn altered_hkdf(mechanism: &CK_MECHANISM, base: CK_OBJECT_HANDLE) -> Option<Altered> {
    // SAFETY: promised by the caller.
    let p = unsafe { of::<CK_HKDF_PARAMS>(mechanism) }?;
    if p.bExpand != 0 {
        return with!(mechanism, base, CK_HKDF_PARAMS, |p| p.pInfo, p.ulInfoLen);
    }
    let salted = p.ulSaltType == CKF_HKDF_SALT_DATA;
    // SAFETY: the salt's pointer and length belong together, as the caller promises.
    let mut salt = unsafe { flipped(p.pSalt, if salted { p.ulSaltLen } else { 0 }) };
    let other = CK_HKDF_PARAMS {
        ulSaltType: CKF_HKDF_SALT_DATA,
        hSaltKey: CK_INVALID_HANDLE,
        pSalt: salt.as_mut_ptr(),
        ulSaltLen: salt.len() as CK_ULONG,
        ..p
    };
    Some(Altered::new(mechanism.mechanism, base, other, salt))
}

/// Another client random or session hash.
///
/// # Safety
/// As for [`altered`].
unsafe fn altered_tls(mechanism: &CK_MECHANISM, base: CK_OBJECT_HANDLE) -> Option<Altered> {
    macro_rules! random {
        ($type:ty) => {
            with!(
                mechanism,
                base,
                $type,
                |p| p.RandomInfo.pClientRandom,
                p.RandomInfo.ulClientRandomLen
            )
        };
    }
    match mechanism.mechanism {
        CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_MASTER_KEY_DERIVE_DH => {
            random!(CK_TLS12_MASTER_KEY_DERIVE_PARAMS)
        }
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE
        | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH
        | CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE
        | CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH => with!(
            mechanism,
            base,
            CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS,
            |p| p.pSessionHash,
            p.ulSessionHashLen
        ),
        CKM_TLS12_KEY_AND_MAC_DERIVE | CKM_TLS12_KEY_SAFE_DERIVE => {
            random!(CK_TLS12_KEY_MAT_PARAMS)
        }
        CKM_TLS_KDF | CKM_TLS12_KDF => random!(CK_TLS_KDF_PARAMS),
        _ => None,
    }
}

/// The parameters, if there are as many bytes.
///
/// # Safety
/// The mechanism's pointer and length must belong together, and the bytes must be a `P`.
pub(crate) unsafe fn of<P: Copy>(mechanism: &CK_MECHANISM) -> Option<P> {
    let there =
        !mechanism.pParameter.is_null() && mechanism.ulParameterLen as usize >= size_of::<P>();
    // SAFETY: the length says that a `P` is there; it may stand at any address.
    there.then(|| unsafe { mechanism.pParameter.cast::<P>().read_unaligned() })
}

/// The bytes with one bit of the last one changed; one byte where there is none.
///
/// # Safety
/// The pointer is null or leads to that many bytes.
unsafe fn flipped(pointer: *const CK_BYTE, length: CK_ULONG) -> Vec<u8> {
    if pointer.is_null() || length == 0 {
        return vec![1];
    }
    // SAFETY: promised by the caller.
    let mut bytes = unsafe { std::slice::from_raw_parts(pointer, length as usize) }.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}

/// Another peer's point: the base point of the curve that a point of this length is on, bare or in DER.
fn other_point(length: usize) -> Option<Vec<u8>> {
    let hex = match length {
        65 | 67 => BASE_P256,
        97 | 99 => BASE_P384,
        32 | 34 => BASE_X25519,
        _ => return None,
    };
    let digits = hex.as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// SEC 2, section 2.4.2.
const BASE_P256: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
    4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
/// SEC 2, section 2.5.1.
const BASE_P384: &str = "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a38\
    5502f25dbf55296c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e\
    819d7a431d7c90ea0e5f";
/// RFC 7748, section 4.1.
const BASE_X25519: &str = "0900000000000000000000000000000000000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_point_of_each_length() {
        for (length, bare) in [(65, 65), (67, 65), (97, 97), (99, 97), (32, 32), (34, 32)] {
            assert_eq!(other_point(length).unwrap().len(), bare);
        }
        assert_eq!(other_point(133), None);
    }

    #[test]
    fn leaves_the_caller_s_parameters_alone() {
        let mut info = *b"info";
        let mut parameters = CK_HKDF_PARAMS {
            bExpand: CK_TRUE,
            pInfo: info.as_mut_ptr(),
            ulInfoLen: 4,
            ..CK_HKDF_PARAMS::default()
        };
        let mechanism = CK_MECHANISM {
            mechanism: CKM_HKDF_DERIVE,
            pParameter: std::ptr::from_mut(&mut parameters).cast(),
            ulParameterLen: size_of::<CK_HKDF_PARAMS>() as CK_ULONG,
        };
        // SAFETY: the mechanism has parameters of its type.
        let altered = unsafe { altered(&mechanism, 5) }.unwrap();
        // SAFETY: so has the altered one, which still lives.
        let changed = unsafe { of::<CK_HKDF_PARAMS>(&altered.mechanism) }.unwrap();
        // SAFETY: the pointer leads to the bytes that `altered` keeps.
        let bytes = unsafe { std::slice::from_raw_parts(changed.pInfo, 4) };
        assert_eq!((bytes, &info, altered.base), (&b"infn"[..], b"info", 5));
    }
}
