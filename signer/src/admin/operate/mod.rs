//! `sign`, `verify`, `encrypt`, `decrypt`, `mac`, `wrap`, `unwrap`, `random` and `lookup`: what a KMS client can ask.
//!
//! The operation runs at a site, by grant; here it is asked for, and its result is written. Invariant: what comes out goes
//! where it was asked to go, and nowhere else.

mod files;
mod lookup;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyhaven_service::signed;
use keyhaven_types::Secret;
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{
        Batch, BatchBody, DataUse, Done, RANDOM_BYTES_MAX, SignedBatch, Task, TaskError,
        TaskResult, batch_text,
    },
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::files::{read_input, write_output};
use super::{
    args::operate::{
        ByArgs, DecryptArgs, EncryptArgs, MacArgs, OutArgs, RandomArgs, SignArgs, UnwrapArgs,
        VerifyArgs, WrapArgs,
    },
    channel::{CallFailure, Channel, Endpoint, Turn, unexpected},
    failure::Failure,
    kms::key_ref,
    report::Report,
    text,
};

pub(super) use lookup::lookup;

/// Signs.
pub(super) fn sign(args: &SignArgs) -> Result<Report, Failure> {
    let task = Task::Sign {
        key: key_ref(&args.key)?,
        scheme: args.scheme,
        message: read_input(&args.input.input)?.to_vec(),
    };
    let result = one(&args.by, task)?;
    match result.done {
        Done::Signature { version, signature } => output(
            &args.out,
            &result.server,
            Some(version),
            "signature",
            signature.into(),
        ),
        _ => Err(another_result()),
    }
}

/// Verifies.
pub(super) fn verify(args: &VerifyArgs) -> Result<Report, Failure> {
    let task = Task::Verify {
        key: key_ref(&args.key)?,
        version: args.version.version,
        scheme: args.scheme,
        message: read_input(&args.input.input)?.to_vec(),
        signature: read_input(&args.signature)?.to_vec(),
    };
    let result = one(&args.by, task)?;
    let Done::Verified { version, valid } = result.done else {
        return Err(another_result());
    };
    let word = if valid { "good" } else { "NOT good" };
    let json = json!({ "valid": valid, "version": version, "server": result.server });
    Ok(Report::new(json, format!("{word}, by version {version}\n")).failed_if(!valid))
}

/// Encrypts.
pub(super) fn encrypt(args: &EncryptArgs) -> Result<Report, Failure> {
    let task = Task::Encrypt {
        key: key_ref(&args.key)?,
        plaintext: Secret::copy_from(&read_input(&args.input.input)?),
        aad: args.aad.clone().into_bytes(),
    };
    ciphertext(one(&args.by, task)?, &args.out)
}

/// Decrypts.
pub(super) fn decrypt(args: &DecryptArgs) -> Result<Report, Failure> {
    let task = Task::Decrypt {
        key: key_ref(&args.key)?,
        version: args.version.version,
        ciphertext: read_input(&args.input.input)?.to_vec(),
        aad: args.aad.clone().into_bytes(),
    };
    plaintext(one(&args.by, task)?, &args.out)
}

/// Makes an HMAC.
pub(super) fn mac(args: &MacArgs) -> Result<Report, Failure> {
    let task = Task::Mac {
        key: key_ref(&args.key)?,
        message: read_input(&args.input.input)?.to_vec(),
    };
    let result = one(&args.by, task)?;
    match result.done {
        Done::Mac { version, mac } => {
            output(&args.out, &result.server, Some(version), "mac", mac.into())
        }
        _ => Err(another_result()),
    }
}

/// Makes a data key and gives it wrapped.
pub(super) fn wrap(args: &WrapArgs) -> Result<Report, Failure> {
    let task = Task::Wrap {
        key: key_ref(&args.key)?,
    };
    let result = one(&args.by, task)?;
    match result.done {
        Done::Wrapped { version, wrapped } => output(
            &args.out,
            &result.server,
            Some(version),
            "wrapped",
            wrapped.into(),
        ),
        _ => Err(another_result()),
    }
}

/// Uses a wrapped data key.
pub(super) fn unwrap(args: &UnwrapArgs) -> Result<Report, Failure> {
    let input = read_input(&args.input.input)?;
    let aad = args.aad.clone().into_bytes();
    let use_for = if args.encrypt {
        DataUse::Encrypt {
            plaintext: Secret::copy_from(&input),
            aad,
        }
    } else {
        DataUse::Decrypt {
            ciphertext: input.to_vec(),
            aad,
        }
    };
    let task = Task::Unwrap {
        key: key_ref(&args.key)?,
        version: args.version.version,
        wrapped: read_input(&args.wrapped)?.to_vec(),
        use_for,
    };
    let result = one(&args.by, task)?;
    if args.encrypt {
        ciphertext(result, &args.out)
    } else {
        plaintext(result, &args.out)
    }
}

/// Random bytes of a token.
pub(super) fn random(args: &RandomArgs) -> Result<Report, Failure> {
    let mut left = args.bytes;
    let mut tasks = Vec::new();
    while left > 0 {
        let bytes = left.min(u32::from(RANDOM_BYTES_MAX));
        left -= bytes;
        tasks.push(Task::Random {
            // No more than the bound, which is a u16.
            bytes: bytes as u16,
        });
    }
    let results = ask(&args.by, tasks)?;
    let mut all = Zeroizing::new(Vec::with_capacity(args.bytes as usize));
    let mut server = String::new();
    for result in results {
        let Outcome { server: by, done } = outcome(result)?;
        let Done::Random { bytes } = done else {
            return Err(another_result());
        };
        all.extend_from_slice(bytes.expose_secret());
        server = by;
    }
    output(&args.out, &server, None, "random", all)
}

fn ciphertext(result: Outcome, out: &OutArgs) -> Result<Report, Failure> {
    match result.done {
        Done::Ciphertext {
            version,
            ciphertext,
        } => output(
            out,
            &result.server,
            Some(version),
            "ciphertext",
            ciphertext.into(),
        ),
        _ => Err(another_result()),
    }
}

fn plaintext(result: Outcome, out: &OutArgs) -> Result<Report, Failure> {
    match result.done {
        Done::Plaintext { version, plaintext } => {
            let bytes = Zeroizing::new(plaintext.expose_secret().to_vec());
            output(out, &result.server, Some(version), "plaintext", bytes)
        }
        _ => Err(another_result()),
    }
}

/// To the file, or to standard output.
fn output(
    out: &OutArgs,
    server: &str,
    version: Option<u32>,
    what: &str,
    bytes: Zeroizing<Vec<u8>>,
) -> Result<Report, Failure> {
    let mut json = json!({ "server": server, "version": version, "bytes": bytes.len() });
    if files::is_standard(&out.out) {
        json[what] = Value::String(STANDARD.encode(&*bytes));
        // Beside the bytes: whoever decrypts or verifies later needs the version.
        let by = version.map_or_else(String::new, |version| format!(" by version {version},"));
        return Ok(Report::bytes(
            json,
            bytes,
            format!("{what}{by} done at {server}"),
        ));
    }
    write_output(&out.out, &bytes)?;
    json["out"] = json!(out.out);
    let by = version.map_or_else(String::new, |version| format!(", version {version}"));
    let shown = format!(
        "{what} written to {}{by}, done at {server}\n",
        out.out.display()
    );
    Ok(Report::new(json, shown))
}

/// What came of one operation.
struct Outcome {
    server: String,
    done: Done,
}

fn one(by: &ByArgs, task: Task) -> Result<Outcome, Failure> {
    let mut results = ask(by, vec![task])?;
    match (results.pop(), results.is_empty()) {
        (Some(result), true) => outcome(result),
        _ => Err(another_result()),
    }
}

fn outcome(result: TaskResult) -> Result<Outcome, Failure> {
    let server = result.server.to_string();
    match result.outcome {
        Ok(done) => Ok(Outcome { server, done }),
        Err(error) => Err(Failure::new(format!("{server}: {error}"), remedy(error))),
    }
}

fn ask(by: &ByArgs, tasks: Vec<Task>) -> Result<Vec<TaskResult>, Failure> {
    let channel = Channel::new(&by.client)?;
    // Operations are harmless to repeat, so the next server is asked when one is away.
    let mut left = Some(tasks);
    let encoded = postcard::to_stdvec(&left).unwrap_or_default();
    let encoded = Zeroizing::new(encoded);
    channel.any_server(|server| {
        let tasks = match left.take() {
            Some(tasks) => tasks,
            None => postcard::from_bytes::<Option<Vec<Task>>>(&encoded)
                .ok()
                .flatten()
                .unwrap_or_default(),
        };
        let request = if by.pass_on {
            Request::OperateSigned(sign_batch(&channel, server, tasks)?)
        } else {
            Request::Operate(Batch { tasks })
        };
        match channel.call(server, request) {
            Ok(Reply::Results(results)) => Ok(answered(results)),
            Ok(reply) => Err(unexpected(server, &reply)),
            Err(CallFailure::NotAsked(why) | CallFailure::Unanswered(why)) => Ok(Turn::Next(why)),
            Err(CallFailure::Said(code)) => said(&channel, server, code),
        }
    })
}

/// Results of a server that could not do anything are a reason to ask the next.
fn answered(results: Vec<TaskResult>) -> Turn<Vec<TaskResult>> {
    let elsewhere = |error: &TaskError| {
        matches!(
            error,
            TaskError::Lease | TaskError::NotHere | TaskError::Busy | TaskError::Unavailable
        )
    };
    let first = results.first();
    let all = results
        .iter()
        .all(|result| result.outcome.as_ref().is_err_and(elsewhere));
    match first.map(|result| (&result.server, &result.outcome)) {
        Some((server, Err(error))) if all => {
            Turn::Next(Failure::new(format!("{server}: {error}"), remedy(*error)))
        }
        _ => Turn::Done(results),
    }
}

fn said(
    channel: &Channel,
    server: &Endpoint,
    code: ErrorCode,
) -> Result<Turn<Vec<TaskResult>>, Failure> {
    let failure = |remedy: &str| Failure::new(format!("{}: {code}", server.identity), remedy);
    match code {
        ErrorCode::Busy | ErrorCode::Unavailable => Ok(Turn::Next(failure(
            "try again in a moment, or another server",
        ))),
        ErrorCode::Denied => Err(failure(&format!(
            "is {} let in there, and has the signer a [kms] section?",
            channel.credentials().identity()
        ))),
        _ => Err(failure("its log says why")),
    }
}

/// Lets that one server pass the operations on.
fn sign_batch(
    channel: &Channel,
    server: &Endpoint,
    tasks: Vec<Task>,
) -> Result<SignedBatch, Failure> {
    let failed = |why: String| {
        Failure::new(
            format!("the request cannot be signed: {why}"),
            "the identity's key must be ECDSA, RSA or Ed25519",
        )
    };
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failed("no random bytes".to_owned()))?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let body = BatchBody {
        caller: channel.credentials().identity().clone(),
        server: server.identity.clone(),
        nonce,
        expires_ms: u64::try_from(now).unwrap_or(0) + PASS_ON_MS,
        tasks,
    };
    let body = postcard::to_stdvec(&body).map_err(|error| failed(error.to_string()))?;
    let signature = signed::sign(channel.credentials(), &batch_text(&body))
        .map_err(|error| failed(text::chain(&error)))?;
    Ok(SignedBatch {
        chain: signature.chain,
        body,
        scheme: signature.scheme,
        signature: signature.signature,
    })
}

fn remedy(error: TaskError) -> &'static str {
    match error {
        TaskError::Denied => {
            "signer-admin kms key list shows what there is, kms grant list who may do what"
        }
        TaskError::State => "signer-admin kms key show says how its versions stand",
        TaskError::Version => "signer-admin kms version list says which there are",
        TaskError::Input => {
            "check scheme, version, --aad and the input; with RSA, at most what OAEP takes"
        }
        TaskError::Lease => "look at the way from that server to central; or ask another server",
        TaskError::NotHere => {
            "signer-admin lookup says who can; or let it be passed on with --pass-on"
        }
        TaskError::Busy | TaskError::Unavailable => "try again in a moment, or another server",
        TaskError::Internal => "the server's log says why",
    }
}

fn another_result() -> Failure {
    Failure::new(
        "the server answered another operation than was asked",
        "are both of the same version?",
    )
}

/// How long a signed request may be on its way, clocks' differences included.
const PASS_ON_MS: u64 = 30_000;
