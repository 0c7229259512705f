//! What belongs to one peer: its machine, connections, tables, and what is counted about it.

use super::capability::Negotiated;
use super::config::{PeerConfig, SpeakerConfig};
use super::encode::EncodeContext;
use super::fsm::{Fsm, Settings, Slot, State};
use super::message::Context;
use super::session::Connection;
use super::status::PeerStatus;
use crate::rib::adj_rib_in::AdjRibIn;
use crate::rib::adj_rib_out::{AdjRibOut, Target};
use crate::rib::route::{Source, SourceKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// A peer as the speaker holds it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: u32,
    pub(crate) config: PeerConfig,
    pub(crate) fsm: Fsm,
    pub(crate) connections: [Option<Connection>; 2],
    pub(crate) session: Option<Session>,
    pub(crate) rib_in: AdjRibIn,
    pub(crate) rib_out: AdjRibOut,
    /// The routes of the last session are kept until then (RFC 4724 §4.2).
    pub(crate) stale_until: Option<Instant>,
    /// It is no longer configured; it goes when its routes have gone.
    pub(crate) departed: bool,
    /// Its first table is complete, or was waited for long enough.
    pub(crate) converged: bool,
    /// A session was established before in this process's life.
    pub(crate) recovered: bool,
    pub(crate) last_error: Option<String>,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) flaps: u64,
    pub(crate) update_errors: u64,
    /// The stage last reported: Idle, Active (coming up) or Established.
    pub(crate) reported: State,
    /// The error last reported.
    pub(crate) reported_error: Option<String>,
    pub(crate) since: SystemTime,
}

/// An established session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) slot: Slot,
    pub(crate) negotiated: Negotiated,
    pub(crate) encode: EncodeContext,
    pub(crate) source: Arc<Source>,
    pub(crate) target: Target,
    pub(crate) established: Instant,
    /// End-of-RIB sent, by family.
    pub(crate) told_all: [bool; 2],
    /// End-of-RIB received, by family.
    pub(crate) heard_all: [bool; 2],
}

impl Peer {
    pub(crate) fn new(id: u32, config: PeerConfig, speaker: &SpeakerConfig, seed: u64) -> Self {
        let settings = settings(&config, speaker, speaker.restarting, false);
        Self {
            id,
            fsm: Fsm::new(settings, seed),
            config,
            connections: [None, None],
            session: None,
            rib_in: AdjRibIn::default(),
            rib_out: AdjRibOut::default(),
            stale_until: None,
            departed: false,
            converged: false,
            recovered: false,
            last_error: None,
            messages_in: 0,
            messages_out: 0,
            flaps: 0,
            update_errors: 0,
            reported: State::Idle,
            reported_error: None,
            since: SystemTime::now(),
        }
    }

    /// Takes over what changed in the configuration, for the next OPEN on.
    pub(crate) fn refresh_settings(&mut self, speaker: &SpeakerConfig, restarting: bool) {
        let settings = settings(&self.config, speaker, restarting, self.recovered);
        self.fsm.set_settings(settings);
    }

    /// How the peer's messages on `slot` are to be read.
    pub(crate) fn context(&self, slot: Slot, speaker: &SpeakerConfig) -> Context {
        let internal = self.config.internal(speaker);
        match self.fsm.negotiated(slot) {
            Some(terms) => Context {
                four_byte_as: terms.four_byte_as,
                internal,
                add_path_receive: terms.add_path_receive,
            },
            None => Context { four_byte_as: true, internal, add_path_receive: [false; 2] },
        }
    }

    /// The routes' source, for the decision process.
    pub(crate) fn source(&self, terms: &Negotiated, speaker: &SpeakerConfig) -> Arc<Source> {
        let internal = self.config.internal(speaker);
        Arc::new(Source {
            peer: self.id,
            address: self.config.address,
            router_id: terms.router_id,
            kind: if internal { SourceKind::Internal } else { SourceKind::External },
            rr_client: internal && self.config.rr_client,
        })
    }

    /// What the export rules must know of the peer.
    pub(crate) fn target(
        &self,
        terms: &Negotiated,
        local: Option<IpAddr>,
        speaker: &SpeakerConfig,
    ) -> Target {
        let (mut own_ipv4, mut own_ipv6) = (None, None);
        match local {
            Some(IpAddr::V4(address)) => own_ipv4 = Some(address),
            Some(IpAddr::V6(address)) => own_ipv6 = Some(address),
            None => {}
        }
        Target {
            peer: self.id,
            local_as: self.config.effective_local_as(speaker),
            internal: self.config.internal(speaker),
            rr_client: self.config.rr_client,
            cluster_id: speaker.cluster_id,
            next_hop_mode: self.config.next_hop_mode,
            own_ipv4: self.config.next_hop_ipv4.or(own_ipv4),
            own_ipv6: self.config.next_hop_ipv6.or(own_ipv6),
            families: terms.families,
        }
    }

    /// For the operator.
    pub(crate) fn status(&self, speaker: &SpeakerConfig, now: Instant) -> PeerStatus {
        let session = self.session.as_ref();
        PeerStatus {
            name: self.config.name.clone(),
            address: self.config.address,
            remote_as: self.config.remote_as,
            local_as: self.config.effective_local_as(speaker),
            kind: self.config.kind,
            state: self.fsm.state(),
            since: self.since,
            uptime: session.map(|s| now.saturating_duration_since(s.established)),
            last_error: self.last_error.clone(),
            received: self.rib_in.len(),
            accepted: self.rib_in.accepted(),
            advertised: self.rib_out.len(),
            messages_in: self.messages_in,
            messages_out: self.messages_out,
            flaps: self.flaps,
            update_errors: self.update_errors,
            hold_time: session.map(|s| s.negotiated.hold_time),
            capabilities: session.map(|s| s.negotiated.words()).unwrap_or_default(),
            stale: self.stale_until.is_some(),
        }
    }
}

fn settings(
    config: &PeerConfig,
    speaker: &SpeakerConfig,
    restarting: bool,
    recovered: bool,
) -> Settings {
    Settings {
        local: config.open(speaker, restarting, recovered),
        remote_as: config.remote_as,
        passive: config.passive,
        keepalive: config.keepalive,
    }
}
