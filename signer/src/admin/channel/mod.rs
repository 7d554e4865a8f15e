//! Asking central and the signers: one request, one answer, from the first of them that is there.
//!
//! Connections, identities and frames are `service`'s and `wire`'s; what is asked is the verbs' business. Invariant: what
//! changes something is never asked twice.

mod config;

use std::time::{Duration, Instant};

use keyhaven_service::{CallError, Client, ClientConfig, Credentials};
use keyhaven_types::Identity;
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::admin::{Answer, Ask, Refused, RefusedCode},
};
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};

use super::{args::ClientArgs, ask, failure::Failure, text};

pub(super) use config::Endpoint;
use config::Settings;

/// The way to central and to the signers.
pub(super) struct Channel {
    settings: Settings,
    runtime: Runtime,
}

/// What one of several servers said.
pub(super) enum Turn<T> {
    /// This is it.
    Done(T),
    /// Another one may do better; if none does, this is what is told.
    Next(Failure),
}

impl Channel {
    /// Reads the file that says where everybody is.
    pub(super) fn new(args: &ClientArgs) -> Result<Self, Failure> {
        let path = args.client.as_deref().ok_or_else(|| {
            Failure::usage(
                "it is not said where central and the signers are",
                "give --client FILE, or set KEYHAVEN_CLIENT; config/client.toml shows what is in it",
            )
        })?;
        let settings = Settings::read(path)?;
        for warning in settings.credentials.warnings() {
            ask::tell(&format!("warning: {warning}"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Failure::new(
                    format!("cannot start: {error}"),
                    "check the limits of this process",
                )
            })?;
        Ok(Self { settings, runtime })
    }

    /// Who asks.
    pub(super) fn credentials(&self) -> &Credentials {
        &self.settings.credentials
    }

    /// Asks central: the first one that is there.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        let centrals = &self.settings.centrals;
        if centrals.is_empty() {
            return Err(Failure::config(
                "the client's file names no central",
                "add a [[central]] with its address and identity, as in config/client.toml",
            ));
        }
        self.first(centrals, CENTRAL, |central| {
            let request = Request::Admin(Box::new(ask.clone()));
            match self.call(central, request) {
                Ok(Reply::Admin(answer)) => Ok(Turn::Done(*answer)),
                Ok(reply) => Err(unexpected(central, &reply)),
                Err(CallFailure::NotAsked(why)) => Ok(Turn::Next(why)),
                // A question may be asked again; what changes something may have been done.
                Err(CallFailure::Unanswered(why)) if is_question(ask) => Ok(Turn::Next(why)),
                Err(CallFailure::Unanswered(why)) => Err(Failure::new(
                    format!("{}; whether it was done is not known", why.what),
                    "look before you do it again: signer-admin kms status, kms key list, kms class list, kms site list",
                )),
                Err(CallFailure::Said(code)) => self.central_said(central, code),
            }
        })
        .and_then(refusal)
    }

    fn central_said(&self, central: &Endpoint, code: ErrorCode) -> Result<Turn<Answer>, Failure> {
        match code {
            ErrorCode::Denied => Err(Failure::new(
                format!(
                    "{} does not let {} do this",
                    central.identity,
                    self.credentials().identity()
                ),
                "add the identity to `write` (or, to look only, to `read`) of [admins] in kms-central.toml",
            )),
            ErrorCode::Busy => Ok(Turn::Next(Failure::new(
                format!("{} is busy", central.identity),
                "try again in a moment",
            ))),
            code => Err(Failure::new(
                format!("{}: {code}", central.identity),
                "its log says why",
            )),
        }
    }

    /// Asks the signers in the order of the file until one of them is content.
    pub(super) fn any_server<T>(
        &self,
        attempt: impl FnMut(&Endpoint) -> Result<Turn<T>, Failure>,
    ) -> Result<T, Failure> {
        let servers = &self.settings.servers;
        if servers.is_empty() {
            return Err(Failure::config(
                "the client's file names no server",
                "add a [[server]] with the address and identity of a signer with [kms], as in config/client.toml",
            ));
        }
        self.first(servers, SERVER, attempt)
    }

    fn first<T>(
        &self,
        endpoints: &[Endpoint],
        what: &str,
        mut attempt: impl FnMut(&Endpoint) -> Result<Turn<T>, Failure>,
    ) -> Result<T, Failure> {
        let mut failures = Vec::new();
        for endpoint in endpoints {
            match attempt(endpoint)? {
                Turn::Done(done) => return Ok(done),
                Turn::Next(failure) => failures.push(failure),
            }
        }
        match (failures.pop(), failures.is_empty()) {
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                failures.push(last);
                let all: Vec<&str> = failures.iter().map(|one| one.what.as_str()).collect();
                Err(Failure::new(
                    format!("no {what} did it: {}", all.join("; ")),
                    failures.first().map_or("", |first| first.remedy.as_str()),
                ))
            }
            (None, _) => Err(Failure::new(
                format!("no {what} is known"),
                "config/client.toml",
            )),
        }
    }

    /// One request to one server.
    pub(super) fn call(&self, to: &Endpoint, request: Request) -> Result<Reply, CallFailure> {
        let limit = self.settings.timeout;
        let config = ClientConfig {
            connect_timeout: limit,
            ..ClientConfig::new(
                to.address.clone(),
                to.identity.clone(),
                self.credentials().clone(),
            )
        };
        self.runtime.block_on(async {
            let client = Client::start(config);
            let connection = timeout(limit, connected(&client)).await;
            let why = match connection {
                Ok(Ok(connection)) => match connection.call(request, limit).await {
                    Ok(Reply::Error(code)) => return Err(CallFailure::Said(code)),
                    Ok(reply) => return Ok(reply),
                    Err(error) => return Err(call_failure(to, error)),
                },
                Ok(Err(why)) => why,
                Err(_) => format!("no answer from {} in {limit:?}", to.address),
            };
            Err(CallFailure::NotAsked(Failure::new(
                format!("{} is not reached: {why}", to.identity),
                "see that it runs, and that address, identity and CA in the client's file are right",
            )))
        })
    }
}

/// Why a call gave nothing.
pub(super) enum CallFailure {
    /// The request was never sent.
    NotAsked(Failure),
    /// It was sent; whether it was done is not known.
    Unanswered(Failure),
    /// The server said so.
    Said(ErrorCode),
}

/// Waits for a connection that works, or for the first reason why there is none.
async fn connected(client: &Client) -> Result<keyhaven_service::PinnedConnection, String> {
    loop {
        if let Some(connection) = client.pin() {
            return Ok(connection);
        }
        if let Some(why) = client.last_error() {
            return Err(text::clean(&why));
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn call_failure(to: &Endpoint, error: CallError) -> CallFailure {
    let failure = |remedy| Failure::new(format!("{}: {error}", to.identity), remedy);
    match error {
        CallError::Unreachable | CallError::Busy => CallFailure::NotAsked(failure(
            "see that it runs, and that this machine reaches it",
        )),
        CallError::Protocol => CallFailure::Unanswered(failure(
            "is the input too long, or is it another version of the program?",
        )),
        CallError::Lost | CallError::Timeout => CallFailure::Unanswered(failure(
            "see that it is well; a larger timeout_ms in the client's file gives it more time",
        )),
    }
}

/// An answer that central could not have given to this question.
pub(super) fn unexpected(from: &Endpoint, reply: &impl std::fmt::Debug) -> Failure {
    // Not the whole: it may hold what was asked for.
    let text = format!("{reply:?}");
    let name: String = text.chars().take_while(char::is_ascii_alphabetic).collect();
    Failure::new(
        format!("{} answered something else ({name})", from.identity),
        "are both of the same version?",
    )
}

fn refusal(answer: Answer) -> Result<Answer, Failure> {
    match answer {
        Answer::Refused(refused) => Err(refused.into()),
        answer => Ok(answer),
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let remedy = match refused.code {
            RefusedCode::NotFound => {
                "signer-admin kms key list, kms class list and kms site list show what there is"
            }
            RefusedCode::Exists => "choose another name, or use what is there",
            RefusedCode::Rule => {
                "docs/kms.md has the rules of classes, purposes and states; signer-admin kms key show and kms class list show how it stands"
            }
            RefusedCode::Token => "look at central's token; central's log has the module's words",
            RefusedCode::Store => {
                "look at central's store; nothing is half done, so try again when it is well"
            }
            RefusedCode::Unknown => {
                "look before you do it again: signer-admin kms status, kms key list, kms class list, kms site list"
            }
        };
        Self::new(text::clean(&refused.why), remedy)
    }
}

/// Whether asking twice is as good as asking once.
fn is_question(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Status
            | Ask::TransportKey
            | Ask::KeyCsr { .. }
            | Ask::KeyList { .. }
            | Ask::KeyShow { .. }
            | Ask::ClassList
            | Ask::SiteList { .. }
            | Ask::GrantList { .. }
            | Ask::Enforced { .. }
    )
}

/// A moment until which something may take.
pub(super) fn deadline_in(seconds: u64) -> Instant {
    // A year, where the clock cannot reach further.
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    Instant::now() + Duration::from_secs(seconds).min(year)
}

/// An identity's own name.
pub(super) fn who(identity: &Identity) -> String {
    text::clean(identity.as_str())
}

const CENTRAL: &str = "central";
const SERVER: &str = "server";
/// How often a connection that is being made is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
