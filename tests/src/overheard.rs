//! All that the tokens gave to the signer since a moment, and what each value was.
//!
//! Needs tokens that are listened to. Whether a value may be there is the tests' business.

use keyhaven_softhsm_test::{Direction, ObjectSeen, Tapped, TestToken};

use crate::daemon::contains;
use crate::running::Parts;

/// Where the records of a site's tokens ended.
#[derive(Clone, Debug)]
pub struct Since(Vec<(usize, usize)>);

impl Since {
    /// Now.
    pub fn now(parts: &Parts) -> Since {
        Since(parts.tokens().map(ends).collect())
    }
}

fn ends(token: &TestToken) -> (usize, usize) {
    let shim = token.shim();
    (shim.tapped().len(), shim.objects().len())
}

/// What passed.
#[derive(Clone, Debug)]
pub struct Overheard {
    /// Both directions.
    pub tapped: Vec<Tapped>,
    /// Every object, as it was right after its creation.
    pub objects: Vec<ObjectSeen>,
}

impl Overheard {
    /// All of it since then, of every token of the site.
    pub fn since(parts: &Parts, since: &Since) -> Overheard {
        let (mut tapped, mut objects) = (Vec::new(), Vec::new());
        for (token, (from, first)) in parts.tokens().zip(&since.0) {
            let shim = token.shim();
            tapped.extend(shim.tapped().split_off(*from));
            objects.extend(shim.objects().split_off(*first));
        }
        Overheard { tapped, objects }
    }

    /// The calls in which these bytes passed, either way, in words.
    pub fn where_is(&self, bytes: &[u8]) -> Vec<String> {
        self.tapped
            .iter()
            .filter(|tapped| contains(&tapped.bytes, bytes))
            .map(|tapped| {
                let Tapped {
                    direction,
                    function,
                    detail,
                    ..
                } = tapped;
                format!("{direction:?} {function} {detail}")
            })
            .collect()
    }

    /// The values that this attribute had when it was read.
    pub fn read(&self, attribute_and_class: &str) -> Vec<&[u8]> {
        self.given("C_GetAttributeValue", attribute_and_class)
    }

    /// What a function gave with this mechanism, or attribute.
    pub fn given(&self, function: &str, detail: &str) -> Vec<&[u8]> {
        self.tapped
            .iter()
            .filter(|tapped| {
                tapped.direction == Direction::Out
                    && tapped.function == function
                    && tapped.detail == detail
            })
            .map(|tapped| tapped.bytes.as_slice())
            .collect()
    }
}
