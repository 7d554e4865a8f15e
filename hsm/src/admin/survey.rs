//! What a module and a token say of themselves: library, slot, limits, mechanisms.
//!
//! For reports to people; what a token really does is found out by its self-tests. Invariant: nothing here needs a
//! login, opens a session or changes anything.

use cryptoki::{
    error::Error as CryptokiError,
    mechanism::{MechanismInfo, MechanismType},
    slot::{Limit, Slot, SlotInfo, TokenInfo as RawTokenInfo},
};
use cryptoki_sys::{
    CK_MECHANISM_TYPE, CKM_AES_KEY_WRAP_KWP, CKM_RSA_AES_KEY_WRAP,
    CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH,
    CKM_VENDOR_DEFINED,
};
use serde::Serialize;

use super::error::AdminError;
use crate::{Error, Module, TokenFault, TokenInfo};

/// Everything that is said without a login.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// C_GetInfo.
    pub library: LibraryFacts,
    /// C_GetSlotInfo.
    pub slot: SlotFacts,
    /// C_GetTokenInfo.
    pub token: TokenFacts,
    /// C_GetMechanismList and C_GetMechanismInfo.
    pub mechanisms: Mechanisms,
}

/// What C_GetInfo says (PKCS#11 3.1, section 5.4).
#[derive(Clone, Debug, Serialize)]
pub struct LibraryFacts {
    /// The version of PKCS#11 that the library speaks.
    pub cryptoki_version: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it calls itself.
    pub description: String,
    /// Its own version.
    pub version: String,
}

/// What C_GetSlotInfo says (PKCS#11 3.1, section 5.5).
#[derive(Clone, Debug, Serialize)]
pub struct SlotFacts {
    /// What the slot calls itself.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
    /// CKF_HW_SLOT: the module says that there is a device behind it.
    pub hardware: bool,
    /// CKF_REMOVABLE_DEVICE.
    pub removable: bool,
    /// The device's version.
    pub hardware_version: String,
    /// The version of its firmware.
    pub firmware_version: String,
}

/// What C_GetTokenInfo says beside names and PIN states (PKCS#11 3.1, section 5.5).
#[derive(Clone, Debug, Serialize)]
pub struct TokenFacts {
    /// Who made it.
    pub manufacturer: String,
    /// Which it is.
    pub model: String,
    /// The token's version.
    pub hardware_version: String,
    /// The version of its firmware.
    pub firmware_version: String,
    /// The set flags among those that are no PIN's state, spelt as in the standard.
    pub flags: Vec<&'static str>,
    /// CKF_WRITE_PROTECTED: no token object can be made.
    pub write_protected: bool,
    /// Sessions that one process may have open.
    pub sessions_max: Bound,
    /// Read-write sessions that one process may have open.
    pub rw_sessions_max: Bound,
    /// The shortest PIN, in bytes.
    pub pin_bytes_min: usize,
    /// The longest PIN, in bytes.
    pub pin_bytes_max: usize,
}

/// A limit: a number, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Bound {
    /// At most so many.
    Number(u64),
    /// "unlimited" (CK_EFFECTIVELY_INFINITE) or "not told" (CK_UNAVAILABLE_INFORMATION).
    Word(&'static str),
}

/// The mechanisms of a slot, in the order of their numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Mechanisms {
    /// Whether the list has vendors' mechanisms and those that the binding does not know.
    pub complete: bool,
    /// The mechanisms.
    pub list: Vec<MechanismFacts>,
}

/// One mechanism, as the module describes it; that says nothing of whether it works.
#[derive(Clone, Debug, Serialize)]
pub struct MechanismFacts {
    /// CK_MECHANISM_TYPE.
    pub id: u64,
    /// Its name, or its number in words.
    pub name: String,
    /// ulMinKeySize, in the mechanism's own unit.
    pub key_size_min: Option<usize>,
    /// ulMaxKeySize, in the mechanism's own unit.
    pub key_size_max: Option<usize>,
    /// The set flags, spelt as in the standard.
    pub flags: Vec<&'static str>,
    /// What C_GetMechanismInfo said when it failed.
    pub error: Option<String>,
}

/// Asks module and token what they are.
///
/// # Errors
/// When the module does not answer for library, slot or token. A mechanism that cannot be asked for is listed so.
pub fn survey(module: &Module, token: &TokenInfo) -> Result<Survey, AdminError> {
    let failed = |operation| {
        let label = token.label.clone();
        move |error: CryptokiError| AdminError::from(Error::token(operation, error).of(&label))
    };
    let _inside = module.enter()?;
    let pkcs11 = module.pkcs11();
    let slot = Slot::try_from(token.slot_id).map_err(failed("find the slot"))?;
    let info = pkcs11
        .get_library_info()
        .map_err(failed("ask the library what it is"))?;
    let slot_info = pkcs11
        .get_slot_info(slot)
        .map_err(failed("ask the slot what it is"))?;
    let token_info = pkcs11
        .get_token_info(slot)
        .map_err(failed("ask the token what it is"))?;
    Ok(Survey {
        library: LibraryFacts {
            cryptoki_version: info.cryptoki_version().to_string(),
            manufacturer: info.manufacturer_id().to_owned(),
            description: info.library_description().to_owned(),
            version: info.library_version().to_string(),
        },
        slot: slot_facts(&slot_info),
        token: token_facts(&token_info),
        mechanisms: mechanisms(module, slot).map_err(failed("list the mechanisms"))?,
    })
}

fn slot_facts(info: &SlotInfo) -> SlotFacts {
    SlotFacts {
        description: info.slot_description().to_owned(),
        manufacturer: info.manufacturer_id().to_owned(),
        hardware: info.hardware_slot(),
        removable: info.removable_device(),
        hardware_version: info.hardware_version().to_string(),
        firmware_version: info.firmware_version().to_string(),
    }
}

fn token_facts(info: &RawTokenInfo) -> TokenFacts {
    TokenFacts {
        manufacturer: info.manufacturer_id().to_owned(),
        model: info.model().to_owned(),
        hardware_version: info.hardware_version().to_string(),
        firmware_version: info.firmware_version().to_string(),
        flags: set_of([
            ("CKF_RNG", info.rng()),
            ("CKF_WRITE_PROTECTED", info.write_protected()),
            ("CKF_LOGIN_REQUIRED", info.login_required()),
            ("CKF_RESTORE_KEY_NOT_NEEDED", info.restore_key_not_needed()),
            ("CKF_CLOCK_ON_TOKEN", info.clock_on_token()),
            (
                "CKF_PROTECTED_AUTHENTICATION_PATH",
                info.protected_authentication_path(),
            ),
            ("CKF_DUAL_CRYPTO_OPERATIONS", info.dual_crypto_operations()),
            (
                "CKF_SECONDARY_AUTHENTICATION",
                info.secondary_authentication(),
            ),
            ("CKF_ERROR_STATE", info.error_state()),
        ]),
        write_protected: info.write_protected(),
        sessions_max: info.max_session_count().into(),
        rw_sessions_max: info.max_rw_session_count().into(),
        pin_bytes_min: info.min_pin_length(),
        pin_bytes_max: info.max_pin_length(),
    }
}

impl From<Limit> for Bound {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Max(most) => Self::Number(most),
            Limit::Infinite => Self::Word("unlimited"),
            Limit::Unavailable => Self::Word("not told"),
        }
    }
}

/// By the module's own list; where that cannot be had, by cryptoki's, which leaves out what it has no name for.
fn mechanisms(module: &Module, slot: Slot) -> Result<Mechanisms, CryptokiError> {
    let pkcs11 = module.pkcs11();
    let (known, complete) = match module.raw() {
        Some(raw) => (raw.mechanism_list(slot)?, true),
        None => (pkcs11.get_mechanism_list(slot)?, false),
    };
    let mut list: Vec<MechanismFacts> = known
        .into_iter()
        .map(|mechanism| one(mechanism, pkcs11.get_mechanism_info(slot, mechanism)))
        .collect();
    list.sort_by_key(|mechanism| mechanism.id);
    Ok(Mechanisms { complete, list })
}

fn one(mechanism: MechanismType, info: Result<MechanismInfo, CryptokiError>) -> MechanismFacts {
    let facts = MechanismFacts {
        id: *mechanism,
        name: name(mechanism),
        key_size_min: None,
        key_size_max: None,
        flags: Vec::new(),
        error: None,
    };
    match info {
        Ok(info) => MechanismFacts {
            key_size_min: Some(info.min_key_size()),
            key_size_max: Some(info.max_key_size()),
            flags: flags(&info),
            ..facts
        },
        Err(error) => MechanismFacts {
            error: Some(TokenFault::new(error).to_string()),
            ..facts
        },
    }
}

/// By the binding, or by this table of those that matter here and that it does not know.
fn name(mechanism: MechanismType) -> String {
    let id = *mechanism;
    let known = NAMES.iter().find(|(known, _)| *known == id);
    match known {
        Some((_, name)) => (*name).to_owned(),
        None if id >= CKM_VENDOR_DEFINED => format!("vendor's own {id:#010x}"),
        None => match mechanism.to_string() {
            unknown if unknown.starts_with("unknown") => format!("unknown {id:#010x}"),
            name => name,
        },
    }
}

const NAMES: [(CK_MECHANISM_TYPE, &str); 4] = [
    (
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE,
        "CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE",
    ),
    (
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH,
        "CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH",
    ),
    (CKM_RSA_AES_KEY_WRAP, "CKM_RSA_AES_KEY_WRAP"),
    (CKM_AES_KEY_WRAP_KWP, "CKM_AES_KEY_WRAP_KWP"),
];

/// PKCS#11 3.1, section 3.6 (CK_MECHANISM_INFO).
fn flags(info: &MechanismInfo) -> Vec<&'static str> {
    set_of([
        ("CKF_HW", info.hardware()),
        ("CKF_ENCRYPT", info.encrypt()),
        ("CKF_DECRYPT", info.decrypt()),
        ("CKF_DIGEST", info.digest()),
        ("CKF_SIGN", info.sign()),
        ("CKF_SIGN_RECOVER", info.sign_recover()),
        ("CKF_VERIFY", info.verify()),
        ("CKF_VERIFY_RECOVER", info.verify_recover()),
        ("CKF_GENERATE", info.generate()),
        ("CKF_GENERATE_KEY_PAIR", info.generate_key_pair()),
        ("CKF_WRAP", info.wrap()),
        ("CKF_UNWRAP", info.unwrap()),
        ("CKF_DERIVE", info.derive()),
        ("CKF_ENCAPSULATE", info.encapsulate()),
        ("CKF_DECAPSULATE", info.decapsulate()),
        ("CKF_EC_F_P", info.ec_f_p()),
        ("CKF_EC_F_2M", info.ec_f_2m()),
        ("CKF_EC_ECPARAMETERS", info.ec_from_parameters()),
        ("CKF_EC_OID", info.ec_from_oid()),
        ("CKF_EC_UNCOMPRESS", info.ec_uncompressed()),
        ("CKF_EC_COMPRESS", info.ec_compressed()),
        ("CKF_EXTENSION", info.extension()),
    ])
}

fn set_of<const N: usize>(flags: [(&'static str, bool); N]) -> Vec<&'static str> {
    flags
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
}
