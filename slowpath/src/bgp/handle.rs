//! How does the rest of the process talk to the speaker's thread?

use super::config::{OriginatedRoute, PeerConfig, SpeakerConfig};
use super::speaker::Speaker;
use super::status::{PeerStatus, RouteEntry, RouteQuery, SpeakerEvent};
use crossbeam::channel::{self, Receiver, Sender};
use mio::Waker;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// What the handle asks of the speaker.
pub(crate) enum Command {
    Global(SpeakerConfig),
    Peers(Vec<PeerConfig>),
    Originated(Vec<OriginatedRoute>),
    NextHops(Vec<(IpAddr, Option<u32>)>),
    ShowPeers(Sender<Vec<PeerStatus>>),
    ShowRoutes(RouteQuery, Sender<Vec<RouteEntry>>),
    Clear { peer: Option<IpAddr>, soft: bool },
    Restarted,
    Shutdown(String),
}

/// The control side of a running speaker. Dropping it ends the speaker without a farewell, as a
/// crash would, so that peers with graceful restart keep our routes.
#[derive(Debug)]
pub struct SpeakerHandle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a speaker on a thread of its own. `on_event` is called on that thread.
///
/// Fails if the listening sockets cannot be opened.
pub fn spawn(
    config: SpeakerConfig,
    on_event: impl Fn(SpeakerEvent) + Send + 'static,
) -> io::Result<SpeakerHandle> {
    let (commands, receiver) = channel::unbounded();
    let (speaker, waker) = Speaker::new(config, receiver, Box::new(on_event))?;
    let thread = thread::Builder::new().name("bgp".to_owned()).spawn(move || speaker.run())?;
    Ok(SpeakerHandle { commands, waker, thread: Some(thread) })
}

impl SpeakerHandle {
    /// Changes the speaker's own configuration; resets only the sessions that need it.
    pub fn set_global(&self, config: SpeakerConfig) {
        self.send(Command::Global(config));
    }

    /// Makes `peers` the set of peers; those that did not change are not touched.
    pub fn set_peers(&self, peers: Vec<PeerConfig>) {
        self.send(Command::Peers(peers));
    }

    /// Makes `routes` the set of routes that start here; tells peers the differences.
    pub fn set_originated(&self, routes: Vec<OriginatedRoute>) {
        self.send(Command::Originated(routes));
    }

    /// Says what next hops cost to reach; `None` = unreachable. Next hops not listed count as
    /// reachable and equally near.
    pub fn set_next_hops(&self, costs: Vec<(IpAddr, Option<u32>)>) {
        self.send(Command::NextHops(costs));
    }

    /// Our own restart is over: peers are told the end of our first table even if some of ours have
    /// not told us theirs.
    pub fn restarted(&self) {
        self.send(Command::Restarted);
    }

    /// Every peer, ordered by name; empty if the speaker has ended.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.ask(Command::ShowPeers)
    }

    /// Routes, ordered by prefix; empty if the speaker has ended.
    pub fn routes(&self, query: RouteQuery) -> Vec<RouteEntry> {
        self.ask(|answer| Command::ShowRoutes(query, answer))
    }

    /// Resets the session to `peer` (`None` = all); `soft` only exchanges all routes again.
    pub fn clear(&self, peer: Option<IpAddr>, soft: bool) {
        self.send(Command::Clear { peer, soft });
    }

    /// Tells every peer "administrative shutdown" with `message` (RFC 9003) and ends the speaker.
    pub fn shutdown(mut self, message: &str) {
        self.send(Command::Shutdown(message.to_owned()));
        self.join();
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake the BGP speaker");
        }
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<Vec<T>>) -> Command) -> Vec<T> {
        let (sender, answer): (_, Receiver<Vec<T>>) = channel::bounded(1);
        self.send(command(sender));
        // An error means that the speaker has ended: it has nothing to show.
        answer.recv().unwrap_or_default()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the BGP speaker's thread has panicked");
        }
    }
}

impl Drop for SpeakerHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let (closed, _) = channel::bounded(0);
            // The speaker ends when its command channel is closed.
            self.commands = closed;
            if self.waker.wake().is_ok() {
                self.join();
            }
        }
    }
}
