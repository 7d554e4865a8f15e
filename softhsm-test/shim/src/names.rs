//! The standard's names for the numbers that turn up in records and faults.
//!
//! Leaves out what nobody here uses: a number without a name is written in hexadecimal. A name and its number are
//! in one row, so reading and writing cannot differ.

use cryptoki_sys::*;

/// `CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE`, which NSS had before PKCS#11 3.2 had one.
pub const CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE: CK_MECHANISM_TYPE = 0xce53_4369;
/// The same from an ephemeral Diffie-Hellman secret.
pub const CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH: CK_MECHANISM_TYPE = 0xce53_436a;

macro_rules! table {
    ($(#[$doc:meta])* $of:ident; $(#[$back_doc:meta])* $back:ident; $($name:ident)*) => {
        $(#[$doc])*
        pub fn $of(value: u64) -> String {
            match value as CK_ULONG {
                $( $name => stringify!($name).to_owned(), )*
                other => format!("{other:#x}"),
            }
        }

        $(#[$back_doc])*
        pub fn $back(name: &str) -> Option<u64> {
            match name {
                $( stringify!($name) => Some($name as u64), )*
                _ => None,
            }
        }
    };
}

table! {
    /// A mechanism's name.
    mechanism;
    /// A mechanism by its name.
    mechanism_named;
    CKM_RSA_PKCS_KEY_PAIR_GEN CKM_RSA_PKCS CKM_RSA_PKCS_OAEP CKM_RSA_PKCS_PSS CKM_SHA256_RSA_PKCS
    CKM_SHA384_RSA_PKCS CKM_SHA512_RSA_PKCS CKM_SHA256_RSA_PKCS_PSS CKM_SHA384_RSA_PKCS_PSS
    CKM_SHA512_RSA_PKCS_PSS CKM_ECDSA CKM_ECDSA_SHA256 CKM_ECDSA_SHA384 CKM_EDDSA CKM_EC_KEY_PAIR_GEN
    CKM_EC_EDWARDS_KEY_PAIR_GEN CKM_EC_MONTGOMERY_KEY_PAIR_GEN CKM_ECDH1_DERIVE CKM_ECDH1_COFACTOR_DERIVE
    CKM_SHA256 CKM_SHA384 CKM_SHA512 CKM_SHA256_HMAC CKM_SHA384_HMAC CKM_SHA512_HMAC
    CKM_GENERIC_SECRET_KEY_GEN CKM_HKDF_DERIVE CKM_HKDF_DATA CKM_HKDF_KEY_GEN CKM_CONCATENATE_BASE_AND_KEY
    CKM_CONCATENATE_BASE_AND_DATA CKM_CONCATENATE_DATA_AND_BASE CKM_XOR_BASE_AND_DATA CKM_EXTRACT_KEY_FROM_KEY
    CKM_TLS_MASTER_KEY_DERIVE CKM_TLS_MASTER_KEY_DERIVE_DH CKM_TLS_KEY_AND_MAC_DERIVE
    CKM_SSL3_KEY_AND_MAC_DERIVE CKM_TLS12_MASTER_KEY_DERIVE CKM_TLS12_MASTER_KEY_DERIVE_DH
    CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH CKM_TLS12_KEY_AND_MAC_DERIVE
    CKM_TLS12_KEY_SAFE_DERIVE CKM_TLS12_MAC CKM_TLS12_KDF CKM_TLS_MAC CKM_TLS_KDF
    CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH CKM_SP800_108_COUNTER_KDF
    CKM_SP800_108_FEEDBACK_KDF CKM_AES_KEY_GEN CKM_AES_GCM CKM_AES_ECB CKM_AES_CBC CKM_AES_KEY_WRAP
    CKM_AES_KEY_WRAP_PAD CKM_AES_KEY_WRAP_KWP CKM_RSA_AES_KEY_WRAP CKM_CHACHA20_POLY1305
    CKM_ML_KEM_KEY_PAIR_GEN CKM_ML_KEM CKM_ML_DSA_KEY_PAIR_GEN CKM_ML_DSA
}

table! {
    /// An attribute's name.
    attribute;
    /// An attribute by its name.
    attribute_named;
    CKA_CLASS CKA_TOKEN CKA_PRIVATE CKA_LABEL CKA_APPLICATION CKA_VALUE CKA_OBJECT_ID CKA_KEY_TYPE CKA_SUBJECT
    CKA_ID CKA_SENSITIVE CKA_ENCRYPT CKA_DECRYPT CKA_WRAP CKA_UNWRAP CKA_SIGN CKA_VERIFY CKA_DERIVE CKA_MODULUS
    CKA_MODULUS_BITS CKA_PUBLIC_EXPONENT CKA_PRIVATE_EXPONENT CKA_PRIME_1 CKA_PRIME_2 CKA_EXPONENT_1
    CKA_EXPONENT_2 CKA_COEFFICIENT CKA_PUBLIC_KEY_INFO CKA_VALUE_LEN CKA_EXTRACTABLE CKA_LOCAL
    CKA_NEVER_EXTRACTABLE CKA_ALWAYS_SENSITIVE CKA_KEY_GEN_MECHANISM CKA_MODIFIABLE CKA_COPYABLE
    CKA_DESTROYABLE CKA_EC_PARAMS CKA_EC_POINT CKA_ALWAYS_AUTHENTICATE CKA_WRAP_WITH_TRUSTED CKA_WRAP_TEMPLATE
    CKA_UNWRAP_TEMPLATE CKA_DERIVE_TEMPLATE CKA_ALLOWED_MECHANISMS CKA_SEED CKA_PARAMETER_SET
    CKA_UNIQUE_ID CKA_CHECK_VALUE
}

table! {
    /// An object class's name.
    class;
    /// An object class by its name.
    class_named;
    CKO_DATA CKO_CERTIFICATE CKO_PUBLIC_KEY CKO_PRIVATE_KEY CKO_SECRET_KEY
}

table! {
    /// A key type's name.
    key_type;
    /// A key type by its name.
    key_type_named;
    CKK_RSA CKK_EC CKK_EC_EDWARDS CKK_EC_MONTGOMERY CKK_GENERIC_SECRET CKK_AES CKK_HKDF CKK_SHA256_HMAC
    CKK_SHA384_HMAC CKK_CHACHA20 CKK_ML_KEM CKK_ML_DSA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_number() {
        assert_eq!(mechanism(0x402a), "CKM_HKDF_DERIVE");
        assert_eq!(mechanism_named("CKM_HKDF_DERIVE"), Some(0x402a));
        assert_eq!(attribute_named("CKA_EC_POINT"), Some(0x181));
        assert_eq!(mechanism(0x8000_1234), "0x80001234");
        assert_eq!(mechanism_named("CKM_NOTHING"), None);
    }
}
