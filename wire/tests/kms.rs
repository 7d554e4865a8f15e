//! What travels around managed keys: every message survives the way, cut ones are none, bounds hold, and only a fitting
//! reply is taken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod frames;

use frames::{decode_all, frame, raw};
use keyhaven_types::{Identity, KeyId, KeyKind, Name, Operation, Secret, SignatureScheme};
use keyhaven_wire::{
    ErrorCode, Expected, Message, Reply, Request,
    kms::{
        Batch, BatchBody, Changes, DataUse, Done, Entry, FOLLOW_BYTES_MAX, FOLLOW_WAIT_MS_MAX,
        Fetch, Fetched, Follow, Found, HeadMark, INPUT_BYTES_MAX, KeyRef, LeaseGrant, LeaseRequest,
        Lookup, PassedOn, RANDOM_BYTES_MAX, Server, Signed, SignedBatch, SiteStatus, TASKS_MAX,
        Task, TaskError, TaskResult, VersionParts,
        admin::{Answer, Ask, Refused, RefusedCode},
        validate_tasks,
    },
};
use proptest::{collection::vec, option, prelude::*};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9._-]{0,20}".prop_map(|text| text.parse().unwrap())
}

fn identity() -> impl Strategy<Value = Identity> {
    "(client|signer|proxy)/[a-z]{1,9}"
        .prop_map(|path| format!("spiffe://keyhaven.test/{path}").parse().unwrap())
}

fn operation() -> impl Strategy<Value = Operation> {
    proptest::sample::select(Operation::ALL)
}

fn key_ref() -> impl Strategy<Value = KeyRef> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|id| KeyRef::Id(KeyId(id))),
        name().prop_map(KeyRef::Name),
        "[a-z]{1,20}\\.test".prop_map(KeyRef::ServerName),
    ]
}

fn task() -> impl Strategy<Value = Task> {
    let version = || option::of(1..9_u32);
    prop_oneof![
        (key_ref(), bytes(300)).prop_map(|(key, message)| Task::Sign {
            key,
            scheme: SignatureScheme::Ed25519,
            message
        }),
        (key_ref(), version(), bytes(300), bytes(80)).prop_map(
            |(key, version, message, signature)| Task::Verify {
                key,
                version,
                scheme: None,
                message,
                signature
            }
        ),
        (key_ref(), bytes(300), bytes(20)).prop_map(|(key, plaintext, aad)| Task::Encrypt {
            key,
            plaintext: Secret::new(plaintext),
            aad
        }),
        (key_ref(), version(), bytes(300), bytes(20)).prop_map(
            |(key, version, ciphertext, aad)| Task::Decrypt {
                key,
                version,
                ciphertext,
                aad
            }
        ),
        (key_ref(), bytes(300)).prop_map(|(key, message)| Task::Mac { key, message }),
        key_ref().prop_map(|key| Task::Wrap { key }),
        (key_ref(), bytes(80), bytes(80)).prop_map(|(key, wrapped, ciphertext)| Task::Unwrap {
            key,
            version: Some(1),
            wrapped,
            use_for: DataUse::Decrypt {
                ciphertext,
                aad: Vec::new()
            }
        }),
        (1..=RANDOM_BYTES_MAX).prop_map(|bytes| Task::Random { bytes }),
    ]
}

fn mark() -> impl Strategy<Value = HeadMark> {
    (any::<u32>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(era, revision, chain)| HeadMark {
        era,
        revision,
        chain,
    })
}

fn signed() -> impl Strategy<Value = Signed> {
    (vec(any::<u8>(), 1..200), bytes(72)).prop_map(|(body, signature)| Signed { body, signature })
}

fn entry() -> impl Strategy<Value = Entry> {
    let parts =
        (bytes(80), bytes(80), vec(bytes(100), 0..3)).prop_map(|(site_wrap, root_wrap, chain)| {
            VersionParts {
                site_wrap,
                root_wrap,
                chain,
            }
        });
    (signed(), option::of(parts)).prop_map(|(signed, parts)| Entry { signed, parts })
}

fn batch() -> impl Strategy<Value = SignedBatch> {
    (vec(bytes(200), 1..3), vec(any::<u8>(), 1..300), bytes(72)).prop_map(
        |(chain, body, signature)| SignedBatch {
            chain,
            body,
            scheme: SignatureScheme::EcdsaSecp256r1Sha256,
            signature,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        vec(task(), 1..6).prop_map(|tasks| Request::Operate(Batch { tasks })),
        batch().prop_map(Request::OperateSigned),
        batch().prop_map(|batch| Request::OperatePassed(PassedOn {
            batch,
            which: vec![0, 3, 9]
        })),
        (key_ref(), operation(), option::of(identity())).prop_map(|(key, operation, caller)| {
            Request::Lookup(Lookup {
                key,
                operation,
                caller,
            })
        }),
        (
            any::<u64>(),
            mark(),
            0..=FOLLOW_WAIT_MS_MAX,
            1..=FOLLOW_BYTES_MAX
        )
            .prop_map(|(after, seen, wait_ms, bytes_max)| Request::Follow(Follow {
                after,
                seen,
                wait_ms,
                bytes_max
            })),
        (key_ref(), identity(), operation()).prop_map(|(key, caller, operation)| {
            Request::Fetch(Fetch {
                key,
                caller,
                operation,
            })
        }),
        (any::<[u8; 16]>(), mark())
            .prop_map(|(nonce, seen)| Request::Lease(LeaseRequest { nonce, seen })),
        Just(()).prop_map(|()| Request::Status),
        name().prop_map(|site| Request::Admin(Box::new(Ask::SiteEvict { site }))),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let outcome = prop_oneof![
        bytes(80).prop_map(|signature| Ok(Done::Signature {
            version: 1,
            signature
        })),
        bytes(80).prop_map(|plaintext| Ok(Done::Plaintext {
            version: 2,
            plaintext: Secret::new(plaintext)
        })),
        Just(()).prop_map(|()| Err(TaskError::Denied)),
    ];
    let result = (name(), outcome).prop_map(|(server, outcome)| TaskResult { server, outcome });
    let server = (name(), identity(), "[a-z]{1,9}:[1-9]{4}", any::<u64>()).prop_map(
        |(site, identity, address, estimate_us)| Server {
            region: site.clone(),
            site,
            identity,
            address,
            estimate_us,
            measured_ms_ago: Some(4),
            is_self: false,
        },
    );
    prop_oneof![
        vec(result, 1..5).prop_map(Reply::Results),
        vec(server, 0..4).prop_map(|servers| Reply::Found(Found {
            servers,
            revision: 9,
            central_ms_ago: None,
            good_for_ms: 100
        })),
        (vec(entry(), 0..4), any::<u64>(), signed()).prop_map(|(entries, through, head)| {
            Reply::Changes(Changes {
                entries,
                through,
                head,
            })
        }),
        (vec(entry(), 0..4), signed())
            .prop_map(|(entries, head)| Reply::Fetched(Fetched { entries, head })),
        (any::<[u8; 16]>(), signed())
            .prop_map(|(nonce, head)| Reply::Leased(LeaseGrant { nonce, head })),
        (name(), mark(), any::<u64>()).prop_map(|(site, seen, applied)| {
            Reply::Status(Box::new(SiteStatus {
                site,
                seen,
                applied,
                lease_age_ms: Some(3),
                mechanisms: vec![(KeyKind::EcP256, Operation::Sign)],
                service_us: vec![(Operation::Sign, 70)],
                waiting: 0,
                threads: 2,
            }))
        }),
        "[ -~]{0,80}".prop_map(|why| {
            Reply::Admin(Box::new(Answer::Refused(Refused {
                code: RefusedCode::Rule,
                why,
            })))
        }),
    ]
}

fn survives<T: Message>(message: &T) -> Result<(), TestCaseError> {
    let sent = frame(7, message);
    let arrived = decode_all::<T>(&sent, 100).unwrap();
    prop_assert_eq!(arrived.len(), 1);
    prop_assert_eq!(&frame(7, &arrived[0].1), &sent);
    // Cut anywhere, with a length that owns up to it, it is none.
    let payload = &sent[keyhaven_wire::FRAME_HEADER_BYTES..];
    for end in 1..payload.len() {
        prop_assert!(decode_all::<T>(&raw(&payload[..end]), usize::MAX).is_err());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn requests_survive_the_way_and_cut_ones_are_none(message in request()) {
        survives(&message)?;
    }

    #[test]
    fn replies_survive_the_way_and_cut_ones_are_none(message in reply()) {
        survives(&message)?;
    }

    #[test]
    fn a_reply_answers_its_own_kind_of_request_alone(request in request(), reply in reply()) {
        let fits = matches!(
            (&request, &reply),
            (Request::Operate(_) | Request::OperateSigned(_) | Request::OperatePassed(_), Reply::Results(_))
                | (Request::Lookup(_), Reply::Found(_))
                | (Request::Follow(_), Reply::Changes(_))
                | (Request::Fetch(_), Reply::Fetched(_))
                | (Request::Lease(_), Reply::Leased(_))
                | (Request::Status, Reply::Status(_))
                | (Request::Admin(_), Reply::Admin(_))
        );
        prop_assert!(fits || !Expected::of(&request).accepts(&reply));
    }
}

fn random(count: usize) -> Vec<Task> {
    (0..count).map(|_| Task::Random { bytes: 1 }).collect()
}

fn results(count: usize) -> Reply {
    let result = || TaskResult {
        server: "fra".parse().unwrap(),
        outcome: Err(TaskError::Busy),
    };
    Reply::Results((0..count).map(|_| result()).collect())
}

#[test]
fn results_of_another_number_answer_no_batch() {
    let plain = Request::Operate(Batch { tasks: random(3) });
    let body = BatchBody {
        caller: "spiffe://keyhaven.test/client/a".parse().unwrap(),
        server: "spiffe://keyhaven.test/signer/b".parse().unwrap(),
        nonce: [1; 16],
        expires_ms: 9,
        tasks: random(3),
    };
    let signed = SignedBatch {
        chain: vec![vec![1]],
        body: postcard::to_stdvec(&body).unwrap(),
        scheme: SignatureScheme::Ed25519,
        signature: vec![1],
    };
    let passed = Request::OperatePassed(PassedOn {
        batch: signed.clone(),
        which: vec![0, 1, 2],
    });
    for request in [plain, Request::OperateSigned(signed), passed] {
        let expected = Expected::of(&request);
        for count in [1, 2, 3, 4] {
            assert_eq!(expected.accepts(&results(count)), count == 3);
        }
        assert!(expected.accepts(&Reply::Error(ErrorCode::Busy)));
    }
}

#[test]
fn a_lease_answers_its_own_question_alone() {
    let ask = |nonce| {
        Request::Lease(LeaseRequest {
            nonce,
            seen: HeadMark::default(),
        })
    };
    let grant = Reply::Leased(LeaseGrant {
        nonce: [1; 16],
        head: Signed {
            body: vec![1],
            signature: vec![],
        },
    });
    assert!(Expected::of(&ask([1; 16])).accepts(&grant));
    assert!(!Expected::of(&ask([2; 16])).accepts(&grant));
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let sign = |len| Task::Sign {
        key: KeyRef::Id(KeyId([0; 16])),
        scheme: SignatureScheme::Ed25519,
        message: vec![0; len],
    };
    assert!(validate_tasks(&[sign(INPUT_BYTES_MAX)]).is_ok());
    assert!(validate_tasks(&[sign(INPUT_BYTES_MAX + 1)]).is_err());
    assert!(validate_tasks(&[]).is_err());
    assert!(validate_tasks(&random(TASKS_MAX)).is_ok());
    assert!(validate_tasks(&random(TASKS_MAX + 1)).is_err());
    for bytes in [0, RANDOM_BYTES_MAX + 1] {
        assert!(validate_tasks(&[Task::Random { bytes }]).is_err());
    }
    let passed = |which| {
        let batch = SignedBatch {
            chain: vec![vec![1]],
            body: vec![1],
            scheme: SignatureScheme::Ed25519,
            signature: vec![],
        };
        Request::OperatePassed(PassedOn { batch, which })
    };
    assert!(passed(vec![0, 1]).validate().is_ok());
    for which in [vec![], vec![1, 1], vec![2, 1]] {
        assert!(passed(which).validate().is_err());
    }
    let follow = |wait_ms, bytes_max| {
        Request::Follow(Follow {
            after: 0,
            seen: HeadMark::default(),
            wait_ms,
            bytes_max,
        })
    };
    assert!(
        follow(FOLLOW_WAIT_MS_MAX, FOLLOW_BYTES_MAX)
            .validate()
            .is_ok()
    );
    assert!(follow(FOLLOW_WAIT_MS_MAX + 1, 1).validate().is_err());
    assert!(follow(0, FOLLOW_BYTES_MAX + 1).validate().is_err());
    assert!(follow(0, 0).validate().is_err());
}
