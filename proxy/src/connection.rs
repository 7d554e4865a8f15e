//! One client connection from its first byte to its line in the log.
//!
//! The order is the point: handshake, then keys, then the backend, then data. Leaves each step to its own room.

use std::{io, net::SocketAddr, sync::Arc};

use keyhaven_service::shutdown::Shutdown;
use keyhaven_types::Identity;
use keyhaven_wire::Established;
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    backend,
    client::say_goodbye,
    config::{Limits, ProxyProtocol},
    crowd::{Crowd, Place},
    handshake::{Failed, Handshake, HandshakeError, ReportRoom, Unlocked},
    proxy_protocol,
    pump::{Buffers, Session, Stop, Traffic},
    record::plain_alert,
    report::{Report, chain},
    signers::Signers,
};

/// What every connection of this proxy shares.
pub(crate) struct Context {
    pub(crate) limits: Limits,
    pub(crate) backend: String,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) identity: Identity,
    pub(crate) signers: Signers,
    pub(crate) buffers: Buffers,
    /// The handshakes that are open.
    pub(crate) crowd: Arc<Crowd>,
    /// Bounds the outcome reports under way.
    pub(crate) reports: Arc<ReportRoom>,
    pub(crate) shutdown: Shutdown,
    /// Cancelled when connections must end now.
    pub(crate) cut: CancellationToken,
}

/// Serves one client.
pub(crate) async fn serve(
    context: Arc<Context>,
    client: TcpStream,
    peer: SocketAddr,
    in_handshake: Place,
) {
    let mut report = Report::new(peer);
    // The handshake is most of what this task needs of memory; boxed, it is given back before the data comes.
    let shaken = Box::pin(handshake(&context, &client, peer, &mut report)).await;
    drop(in_handshake);
    let traffic = Traffic::new();
    let (header, session) = match shaken {
        Ok(unlocked) => {
            report.established(&unlocked.established);
            let header = header(&context, &client, peer, &unlocked.established);
            (header, Session::new(&context, &client, &traffic, unlocked))
        }
        Err(Failed { error, alert }) => {
            let alert = alert.map(plain_alert);
            let is_ours = error.is_ours();
            let end = chain(&error);
            report.write(&end, is_ours);
            if !matches!(error, HandshakeError::Client(_)) {
                let alert = alert.as_ref().map_or(&[][..], |alert| &alert[..]);
                say_goodbye(&client, alert, &context.shutdown).await;
            }
            return;
        }
    };
    let ended = match session {
        Ok(session) => Box::pin(move_data(&context, header, session)).await,
        Err(error) => {
            report.write(&chain(&error), true);
            return;
        }
    };
    report.bytes_up = traffic.up();
    report.bytes_down = traffic.down();
    match ended {
        Ok(()) => report.write("both sides closed", false),
        Err(stop) => report.write(&chain(&stop), stop.is_ours()),
    }
}

async fn handshake(
    context: &Context,
    client: &TcpStream,
    peer: SocketAddr,
    report: &mut Report,
) -> Result<Unlocked, Failed> {
    let run = Handshake::new(context, client, peer).run(Instant::now(), report);
    tokio::select! {
        unlocked = run => unlocked,
        () = context.cut.cancelled() => Err(Failed {
            error: HandshakeError::Stopping,
            alert: None,
        }),
    }
}

/// What the backend is to be told of the client.
fn header(
    context: &Context,
    client: &TcpStream,
    peer: SocketAddr,
    established: &Established,
) -> io::Result<Option<Vec<u8>>> {
    let wanted = context.proxy_protocol;
    if wanted == ProxyProtocol::None {
        return Ok(None);
    }
    let server = client.local_addr()?;
    Ok(proxy_protocol::header(wanted, peer, server, established))
}

async fn move_data(
    context: &Context,
    header: io::Result<Option<Vec<u8>>>,
    session: Session<'_>,
) -> Result<(), Stop> {
    let header = header.map_err(Stop::Client)?;
    let timeout = context.limits.backend_connect_timeout;
    let connecting = async {
        let backend = backend::connect(&context.backend, timeout, header).await;
        backend.map_err(Stop::BackendConnect)
    };
    match session.before_data(connecting).await {
        Ok(backend) => session.run(&backend).await,
        Err(stop) => session.refuse(stop).await,
    }
}
