//! Which role may ask what of a signer: looked at before anything else of a request (security rule M2).
//!
//! What a caller then gets is decided by grants, by the file, and by central's list of sites. Invariant: a verb that is
//! not named here for a role is denied to it.

use keyhaven_types::Role;
use keyhaven_wire::Request;

/// Whether identities of a role may ask this.
pub(super) fn may_ask(role: Role, request: &Request) -> bool {
    let is_user = matches!(
        role,
        Role::Proxy | Role::Signer | Role::Client | Role::Admin
    );
    match request {
        Request::Start(_)
        | Request::Continue(_)
        | Request::Outcome(_)
        | Request::Refuse(_)
        | Request::Rekey(_) => role == Role::Proxy,
        Request::Ping | Request::Operate(_) | Request::OperateSigned(_) | Request::Lookup(_) => {
            is_user
        }
        Request::OperatePassed(_) | Request::Fetch(_) | Request::Status => role == Role::Signer,
        // Central's.
        Request::Follow(_) | Request::Lease(_) | Request::Admin(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_types::{Direction, KeyId, Operation, SignatureScheme};
    use keyhaven_wire::{
        ConnectionId, Continue, HandshakeId, Outcome, Refuse, Rekey, Start,
        kms::{
            Batch, Fetch, Follow, HeadMark, KeyRef, LeaseRequest, Lookup, PassedOn, SignedBatch,
            admin::Ask,
        },
    };

    use super::*;

    const NAME: HandshakeId = HandshakeId([1; 32]);

    fn signed() -> SignedBatch {
        SignedBatch {
            chain: Vec::new(),
            body: Vec::new(),
            scheme: SignatureScheme::Ed25519,
            signature: Vec::new(),
        }
    }

    fn of_proxies() -> Vec<Request> {
        let (client, records) = (String::new(), Vec::new());
        vec![
            Request::Start(Start {
                handshake: NAME,
                client,
                records: Vec::new(),
            }),
            Request::Continue(Continue {
                handshake: NAME,
                records,
            }),
            Request::Outcome(Outcome {
                handshake: NAME,
                proof: None,
            }),
            Request::Refuse(Refuse {
                handshake: NAME,
                alert: 40,
            }),
            Request::Rekey(Rekey {
                connection: ConnectionId([1; 32]),
                direction: Direction::Read,
                generation: 1,
                state: Vec::new(),
            }),
        ]
    }

    fn of_users() -> Vec<Request> {
        vec![
            Request::Ping,
            Request::Operate(Batch { tasks: Vec::new() }),
            Request::OperateSigned(signed()),
            Request::Lookup(Lookup {
                key: KeyRef::Id(KeyId([1; 16])),
                operation: Operation::Sign,
                caller: None,
            }),
        ]
    }

    fn of_signers() -> Vec<Request> {
        vec![
            Request::OperatePassed(PassedOn {
                batch: signed(),
                which: Vec::new(),
            }),
            Request::Fetch(Fetch {
                key: KeyRef::Id(KeyId([1; 16])),
                caller: "spiffe://a.test/client/a".parse().unwrap(),
                operation: Operation::Sign,
            }),
            Request::Status,
        ]
    }

    fn of_central() -> Vec<Request> {
        vec![
            Request::Follow(Follow {
                after: 0,
                seen: HeadMark::default(),
                wait_ms: 0,
                bytes_max: 1,
            }),
            Request::Lease(LeaseRequest {
                nonce: [0; 16],
                seen: HeadMark::default(),
            }),
            Request::Admin(Box::new(Ask::Status)),
        ]
    }

    fn roles_that_may(requests: &[Request]) -> Vec<Vec<Role>> {
        let all = [
            Role::Proxy,
            Role::Signer,
            Role::Admin,
            Role::Central,
            Role::Client,
        ];
        let may = |request| all.into_iter().filter(move |role| may_ask(*role, request));
        requests
            .iter()
            .map(|request| may(request).collect())
            .collect()
    }

    #[test]
    fn m2_each_verb_is_for_its_roles_alone() {
        for (requests, roles) in [
            (of_proxies(), vec![Role::Proxy]),
            (
                of_users(),
                vec![Role::Proxy, Role::Signer, Role::Admin, Role::Client],
            ),
            (of_signers(), vec![Role::Signer]),
            (of_central(), vec![]),
        ] {
            for (allowed, request) in roles_that_may(&requests).iter().zip(&requests) {
                assert_eq!(*allowed, roles, "{request:?}");
            }
        }
    }
}
