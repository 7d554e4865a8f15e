//! Requests and replies over real sockets: order, limits, loss, and the end of a connection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use common::{Ca, PATIENCE, PROXY, SIGNER, Server, gated, in_time, loopback, start, until};
use keyhaven_service::{CallError, Client, ServeLimits, shutdown::Ended};
use keyhaven_wire::{ErrorCode, Reply, Request};
use tokio::task::JoinHandle;

fn call(client: &Client, request: Request) -> JoinHandle<Result<Reply, CallError>> {
    let client = client.clone();
    tokio::spawn(async move { client.call(request, PATIENCE).await })
}

async fn connected(server: &Server, ca: &Ca) -> Client {
    let client = server.client(ca.credentials(PROXY));
    assert!(client.healthy(PATIENCE).await, "{:?}", client.last_error());
    client
}

#[tokio::test]
async fn replies_come_in_any_order() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let slow: Vec<_> = (0..20).map(|_| call(&client, gated())).collect();
    until("all slow ones at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 20
    })
    .await;
    for _ in 0..20 {
        let fast = client.call(start("c"), PATIENCE).await.unwrap();
        assert!(matches!(fast, Reply::Handshake(_)));
    }
    assert!(slow.iter().all(|call| !call.is_finished()));
    server.script.open_gate();
    for call in slow {
        assert!(matches!(
            in_time("a slow reply", call).await.unwrap(),
            Ok(Reply::Noted)
        ));
    }
    assert_eq!(
        server.script.callers.lock().unwrap()[0].identity.as_str(),
        PROXY
    );
}

#[tokio::test]
async fn no_more_requests_are_at_work_than_allowed() {
    let ca = Ca::new();
    let limits = ServeLimits {
        in_flight: 4,
        ..ServeLimits::default()
    };
    let server = Server::with(ca.credentials(SIGNER), limits, |_| {}).await;
    let client = connected(&server, &ca).await;
    let calls: Vec<_> = (0..40).map(|_| call(&client, gated())).collect();
    until("four at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 4
    })
    .await;
    server.script.open_gate();
    for call in calls {
        assert!(in_time("a reply", call).await.unwrap().is_ok());
    }
    assert_eq!(server.script.most_at_work.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_full_client_says_busy_at_once_and_a_late_reply_is_no_breach() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = server.client_with(ca.credentials(PROXY), |config| config.outstanding_max = 2);
    assert!(client.healthy(PATIENCE).await);
    let epoch = client.connection_epoch();
    let kept = call(&client, gated());
    let given_up = client.call(gated(), Duration::from_millis(1)).await;
    assert_eq!(given_up.unwrap_err(), CallError::Timeout);
    until("both at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 2
    })
    .await;
    assert_eq!(
        client.call(start("c"), PATIENCE).await.unwrap_err(),
        CallError::Busy
    );
    server.script.open_gate();
    assert!(in_time("the reply", kept).await.unwrap().is_ok());
    in_time("a free place", async {
        while client.call(start("c"), PATIENCE).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(client.connection_epoch(), epoch);
}

#[tokio::test]
async fn a_handler_that_panics_answers_internal_and_hurts_no_other() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let slow = call(&client, gated());
    let reply = client.call(start("panic"), PATIENCE).await.unwrap();
    assert!(matches!(reply, Reply::Error(ErrorCode::Internal)));
    server.script.open_gate();
    assert!(in_time("the other reply", slow).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_reply_to_another_request_closes_the_connection() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let pinned = client.pin().unwrap();
    let slow = call(&client, gated());
    until("one at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    let mixed_up = client.call(start("mixed up"), PATIENCE).await;
    assert_eq!(mixed_up.unwrap_err(), CallError::Protocol);
    assert_eq!(
        in_time("the end", slow).await.unwrap().unwrap_err(),
        CallError::Lost
    );
    assert!(!pinned.is_open());
    until("its server side freed", || {
        server.script.closed.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_fails_its_calls_at_once_and_another_is_made() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let pinned = client.pin().unwrap();
    let calls: Vec<_> = (0..5).map(|_| call(&client, gated())).collect();
    until("all at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 5
    })
    .await;
    let caller = server.script.callers.lock().unwrap()[0].clone();
    caller.close();
    for call in calls {
        assert_eq!(
            in_time("a failure", call).await.unwrap().unwrap_err(),
            CallError::Lost
        );
    }
    assert!(!pinned.is_open());
    assert_eq!(
        pinned.call(start("c"), PATIENCE).await.unwrap_err(),
        CallError::Unreachable
    );
    until("it is freed once", || {
        server.script.closed.load(Ordering::SeqCst) == 1
    })
    .await;
    until("another connection", || {
        client
            .connection_epoch()
            .is_some_and(|epoch| epoch > pinned.epoch())
    })
    .await;
    assert!(client.call(start("c"), PATIENCE).await.is_ok());
    let callers = server.script.callers.lock().unwrap();
    assert!(
        callers
            .iter()
            .any(|other| other.connection != caller.connection)
    );
}

#[tokio::test]
async fn a_signer_that_was_away_is_found_again() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    assert_eq!(server.shutdown.finish(PATIENCE).await, Ended::Clean);
    until("it is seen to be away", || client.pin().is_none()).await;
    assert!(!client.is_healthy());
    assert_eq!(
        client.call(start("c"), PATIENCE).await.unwrap_err(),
        CallError::Unreachable
    );
    let port = server.address.port();
    let again = Server::with(ca.credentials(SIGNER), ServeLimits::default(), |config| {
        config.address = loopback(port);
    })
    .await;
    assert!(client.healthy(PATIENCE).await, "{:?}", client.last_error());
    assert!(client.call(start("c"), PATIENCE).await.is_ok());
    drop(client);
    until("the connection ends with its client", || {
        again.script.closed.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let slow = call(&client, gated());
    until("one at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    let shutdown = server.shutdown.clone();
    let ended = tokio::spawn(async move { shutdown.finish(PATIENCE).await });
    until("it stops", || server.shutdown.is_stopping()).await;
    server.script.open_gate();
    assert!(in_time("the reply", slow).await.unwrap().is_ok());
    assert_eq!(in_time("the end", ended).await.unwrap(), Ended::Clean);
    assert_eq!(server.script.closed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn stopping_waits_for_second_calls_and_then_no_longer() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    server.script.pending.store(1, Ordering::SeqCst);
    let shutdown = server.shutdown.clone();
    let ended = tokio::spawn(async move { shutdown.finish(PATIENCE).await });
    until("it stops", || server.shutdown.is_stopping()).await;
    assert!(client.call(start("second"), PATIENCE).await.is_ok());
    assert!(!ended.is_finished());
    server.script.pending.store(0, Ordering::SeqCst);
    assert_eq!(in_time("the end", ended).await.unwrap(), Ended::Clean);
}

#[tokio::test]
async fn what_never_finishes_is_cut() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let stuck = call(&client, gated());
    until("one at work", || {
        server.script.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    let ended = server.shutdown.finish(Duration::from_millis(20)).await;
    assert!(matches!(ended, Ended::Cut { open: 1, .. }));
    assert!(in_time("the call's end", stuck).await.unwrap().is_err());
    assert_eq!(server.script.closed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_old_connection_is_replaced() {
    let ca = Ca::new();
    let limits = ServeLimits {
        connection_age_max: Duration::from_millis(200),
        ..ServeLimits::default()
    };
    let server = Server::with(ca.credentials(SIGNER), limits, |_| {}).await;
    let client = connected(&server, &ca).await;
    let first = client.connection_epoch().unwrap();
    until("another connection", || {
        client.connection_epoch().is_some_and(|epoch| epoch > first)
    })
    .await;
}

#[tokio::test]
async fn a_signer_that_answers_nothing_is_left() {
    let ca = Ca::new();
    let limits = ServeLimits {
        in_flight: 1,
        ..ServeLimits::default()
    };
    let server = Server::with(ca.credentials(SIGNER), limits, |_| {}).await;
    let client = server.client_with(ca.credentials(PROXY), |config| {
        config.ping_interval = Duration::from_millis(50);
        config.ping_timeout = Duration::from_millis(200);
    });
    assert!(client.healthy(PATIENCE).await);
    // It takes the only place, so that no ping gets an answer.
    let stuck = call(&client, gated());
    assert_eq!(
        in_time("its end", stuck).await.unwrap().unwrap_err(),
        CallError::Lost
    );
}

#[tokio::test]
async fn more_callers_than_places_are_refused() {
    let ca = Ca::new();
    let server = Server::with(ca.credentials(SIGNER), ServeLimits::default(), |config| {
        config.connections_max = 1;
    })
    .await;
    let first = connected(&server, &ca).await;
    let second = server.client(ca.credentials(PROXY));
    common::refusal(&second).await;
    assert!(!second.is_healthy());
    assert!(first.call(start("c"), PATIENCE).await.is_ok());
    drop(first);
    assert!(
        second.healthy(PATIENCE).await,
        "a place that is free again is given"
    );
}

#[tokio::test]
async fn one_identity_takes_no_more_than_its_share_of_the_places() {
    let ca = Ca::new();
    let server = Server::with(ca.credentials(SIGNER), ServeLimits::default(), |config| {
        config.connections_max = 8;
    })
    .await;
    let _first = connected(&server, &ca).await;
    let _second = connected(&server, &ca).await;
    let third = server.client(ca.credentials(PROXY));
    common::refusal(&third).await;
    let other = server.client(ca.credentials("spiffe://keyhaven.test/proxy/other"));
    assert!(other.healthy(PATIENCE).await);
}

#[tokio::test]
async fn handshakes_over_the_limit_are_busy_and_hold_nothing_up() {
    let ca = Ca::new();
    let limits = ServeLimits {
        handshakes: 0,
        ..ServeLimits::default()
    };
    let server = Server::with(ca.credentials(SIGNER), limits, |_| {}).await;
    let client = connected(&server, &ca).await;
    let reply = client.call(start("c"), PATIENCE).await;
    assert!(
        matches!(reply, Ok(Reply::Error(ErrorCode::Busy))),
        "{reply:?}"
    );
    let reply = client.call(Request::Ping, PATIENCE).await;
    assert!(matches!(reply, Ok(Reply::Pong)), "{reply:?}");
}

#[tokio::test]
async fn many_calls_from_many_tasks_all_come_back() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let client = connected(&server, &ca).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let client = Arc::new(client.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert!(client.call(start("c"), PATIENCE).await.is_ok());
                }
            })
        })
        .collect();
    for task in tasks {
        in_time("a task's end", task).await.unwrap();
    }
}
