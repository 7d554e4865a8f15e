//! The files that a site, an operator and the ceremony exchange by hand: request, response, classes.
//!
//! JSON with base64 in it. They need not be secret, and nothing in them is believed for where it came from. Invariant: what
//! leaves here as a delivery was signed by the central key that was asked about, and its wrap is the one that was signed.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use keyhaven_kms::records::{CentralKey, sha256};
use keyhaven_types::{KekId, Name};
use keyhaven_wire::kms::{ClassRecord, Held, Record, Signed};
use serde::{Deserialize, Serialize};

use super::{
    files::{Marked, damaged},
    show::base64,
};
use crate::admin::{failure::Failure, text};

/// What a site asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    keyhaven: String,
    /// The site's name.
    pub(super) site: Name,
    transport: String,
    /// SHA-256 of the transport key, hexadecimal: for scripts; people compare what the screen shows.
    pub(super) fingerprint: String,
    /// Key-encryption keys that the site's token has already: these need no delivery.
    #[serde(default)]
    pub(super) holds: Vec<KekId>,
}

/// What the ceremony gives.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    keyhaven: String,
    /// The site's name.
    pub(super) site: Name,
    central_key: String,
    deliveries: Vec<RawDelivery>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RawDelivery {
    signed: RawSigned,
    wrap: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RawSigned {
    body: String,
    signature: String,
}

/// Every class as central has signed it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Classes {
    keyhaven: String,
    classes: Vec<RawSigned>,
}

/// A response whose every part was signed by one central.
pub(super) struct Believed {
    pub(super) site: Name,
    pub(super) central: CentralKey,
    pub(super) deliveries: Vec<BelievedDelivery>,
}

/// One key-encryption key on its way.
pub(super) struct BelievedDelivery {
    pub(super) held: Held,
    /// SHA-256 of the transport key that it is wrapped under.
    pub(super) transport: [u8; 32],
    pub(super) wrap: Vec<u8>,
}

impl Request {
    pub(super) fn new(site: Name, spki: &[u8], holds: Vec<KekId>) -> Self {
        Self {
            keyhaven: REQUEST.to_owned(),
            site,
            transport: base64(spki),
            fingerprint: text::sha256(spki),
            holds,
        }
    }

    /// The transport key, DER SubjectPublicKeyInfo.
    pub(super) fn transport(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        let spki = decode(path, &self.transport)?;
        if text::sha256(&spki) != self.fingerprint {
            return Err(damaged(path, "its fingerprint is not the one of its key"));
        }
        Ok(spki)
    }
}

impl Response {
    pub(super) fn new(site: Name, central: &CentralKey, deliveries: &[(Signed, Vec<u8>)]) -> Self {
        let delivery = |(signed, wrap): &(Signed, Vec<u8>)| RawDelivery {
            signed: RawSigned::new(signed),
            wrap: base64(wrap),
        };
        Self {
            keyhaven: RESPONSE.to_owned(),
            site,
            central_key: base64(central.spki()),
            deliveries: deliveries.iter().map(delivery).collect(),
        }
    }

    /// Judges it by the central key that it names itself: enough to say what is in it, and whose it is.
    pub(super) fn believed(self, path: &Path) -> Result<Believed, Failure> {
        let spki = decode(path, &self.central_key)?;
        let central =
            CentralKey::from_spki(&spki).map_err(|error| damaged(path, &error.to_string()))?;
        self.believed_by(&central, path)
    }

    /// Judges it by a central key that is known.
    pub(super) fn believed_by(
        self,
        central: &CentralKey,
        path: &Path,
    ) -> Result<Believed, Failure> {
        let deliveries = self
            .deliveries
            .iter()
            .map(|raw| judge(raw, &self.site, central, path))
            .collect::<Result<Vec<_>, _>>()?;
        if deliveries.is_empty() {
            return Err(damaged(path, "nothing is delivered by it"));
        }
        Ok(Believed {
            site: self.site,
            central: central.clone(),
            deliveries,
        })
    }
}

fn judge(
    raw: &RawDelivery,
    site: &Name,
    central: &CentralKey,
    path: &Path,
) -> Result<BelievedDelivery, Failure> {
    let record = central
        .read(&raw.signed.signed(path)?)
        .map_err(|error| refused(path, &error.to_string()))?;
    let Record::Delivery(delivery) = record else {
        return Err(refused(
            path,
            "what central has signed in it is no delivery",
        ));
    };
    if delivery.site != *site {
        return Err(refused(
            path,
            &format!(
                "it names site `{site}`, and central has signed for `{}`",
                delivery.site
            ),
        ));
    }
    let wrap = decode(path, &raw.wrap)?;
    if sha256(&wrap) != delivery.wrap {
        return Err(refused(
            path,
            "a wrapped key is not the one that central has signed",
        ));
    }
    Ok(BelievedDelivery {
        held: delivery.held,
        transport: delivery.transport,
        wrap,
    })
}

impl Classes {
    pub(super) fn new(signed: &[Signed]) -> Self {
        Self {
            keyhaven: CLASSES.to_owned(),
            classes: signed.iter().map(RawSigned::new).collect(),
        }
    }

    /// The classes, each signed by this central.
    pub(super) fn believed_by(
        &self,
        central: &CentralKey,
        path: &Path,
    ) -> Result<Vec<ClassRecord>, Failure> {
        let class = |raw: &RawSigned| match central.read(&raw.signed(path)?) {
            Ok(Record::Class(class)) => Ok(class),
            Ok(_) => Err(refused(path, "what central has signed in it is no class")),
            Err(error) => Err(refused(path, &error.to_string())),
        };
        self.classes.iter().map(class).collect()
    }
}

impl RawSigned {
    fn new(signed: &Signed) -> Self {
        Self {
            body: base64(&signed.body),
            signature: base64(&signed.signature),
        }
    }

    fn signed(&self, path: &Path) -> Result<Signed, Failure> {
        Ok(Signed {
            body: decode(path, &self.body)?,
            signature: decode(path, &self.signature)?,
        })
    }
}

macro_rules! marked {
    ($($name:ident = $mark:ident),*) => {
        $(impl Marked for $name {
            const MARK: &'static str = $mark;
            fn mark(&self) -> &str {
                &self.keyhaven
            }
        })*
    };
}

marked!(Request = REQUEST, Response = RESPONSE, Classes = CLASSES);

const REQUEST: &str = "site request 1";
const RESPONSE: &str = "site response 1";
const CLASSES: &str = "classes 1";

fn decode(path: &Path, text: &str) -> Result<Vec<u8>, Failure> {
    STANDARD
        .decode(text)
        .map_err(|_| damaged(path, "there is base64 in it that cannot be read"))
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::new(
        format!("{} is not believed: {}", path.display(), text::clean(why)),
        "take nothing from it; find out where it came from, and hold the ceremony again",
    )
}

#[cfg(test)]
mod tests {
    use keyhaven_kms::records::testing::SoftwareCentral;
    use keyhaven_types::Purpose;
    use keyhaven_wire::kms::Delivery;

    use super::*;

    fn delivery(site: &str) -> Delivery {
        Delivery {
            site: site.parse().unwrap(),
            transport: [1; 32],
            held: Held {
                class: "everywhere".parse().unwrap(),
                purpose: Purpose::Sign,
                epoch: 1,
                kek: KekId([2; 16]),
            },
            wrap: sha256(b"wrap"),
        }
    }

    fn response(central: &SoftwareCentral, record: &Record, wrap: &[u8]) -> Response {
        let signed = central.sign(record);
        Response::new(
            "fra".parse().unwrap(),
            &central.key(),
            &[(signed, wrap.to_vec())],
        )
    }

    fn judged(response: Response, central: &CentralKey) -> Result<Believed, String> {
        let believed = response.believed_by(central, Path::new("r.json"));
        believed.map_err(|failure| failure.what)
    }

    #[test]
    fn k4_a_delivery_is_believed_only_as_central_has_signed_it() {
        let central = SoftwareCentral::new();
        let good = || response(&central, &Record::Delivery(delivery("fra")), b"wrap");
        let believed = judged(good(), &central.key()).unwrap();
        assert_eq!(believed.deliveries[0].wrap, b"wrap");
        assert_eq!(believed.deliveries[0].transport, [1; 32]);

        let other = SoftwareCentral::new();
        let why = judged(good(), &other.key()).err().unwrap();
        assert!(why.contains("not signed by this central"), "{why}");
        let why = judged(
            response(&central, &Record::Delivery(delivery("nyc")), b"wrap"),
            &central.key(),
        );
        assert!(why.err().unwrap().contains("signed for `nyc`"));
        let why = judged(
            response(&central, &Record::Delivery(delivery("fra")), b"another"),
            &central.key(),
        );
        assert!(
            why.err()
                .unwrap()
                .contains("not the one that central has signed")
        );
        let class = Record::Class(ClassRecord {
            name: "a".parse().unwrap(),
            regions: Vec::new(),
            hardware_min: keyhaven_types::HardwareLevel::Software,
            bound_s: 5,
            bound_before: None,
            generated_only: false,
            replication: keyhaven_types::Replication::Eager,
            epochs: Vec::new(),
            revision: 1,
        });
        let why = judged(response(&central, &class, b"wrap"), &central.key());
        assert!(why.err().unwrap().contains("no delivery"));
        let empty = Response::new("fra".parse().unwrap(), &central.key(), &[]);
        assert!(judged(empty, &central.key()).is_err());
    }
}
