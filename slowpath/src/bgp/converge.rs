//! When is the first table complete, and our own restart over?

use super::speaker::Speaker;
use super::status::SpeakerEvent;
use std::time::{Duration, Instant};

/// How long peers that do not come up delay [`SpeakerEvent::Converged`].
const CONNECT_GRACE: Duration = Duration::from_secs(15);
/// How long an established peer may delay it.
const TABLE_GRACE: Duration = Duration::from_mins(1);
/// How long one that cannot tell the end of its table delays it.
const QUIET_GRACE: Duration = Duration::from_secs(3);
/// How often convergence is looked at while it is awaited.
pub(super) const CONVERGENCE_TICK: Duration = Duration::from_millis(200);

impl Speaker {
    pub(super) fn check_convergence(&mut self, now: Instant) {
        let Some(since) = self.converging_since else { return };
        for peer in self.peers.values_mut().filter(|peer| !peer.converged) {
            peer.converged = match &peer.session {
                None => now >= since + CONNECT_GRACE,
                Some(session) => {
                    let families = session.negotiated.families.iter();
                    let told = families.zip(session.heard_all).all(|(&on, heard)| heard || !on);
                    let up = now.saturating_duration_since(session.established);
                    let terms = session.negotiated.graceful_restart;
                    let silent = terms.is_none() && up >= QUIET_GRACE;
                    // RFC 4724 §4.1: two that restart must not wait for each other.
                    let both = self.restarting && terms.is_some_and(|terms| terms.restarting);
                    told || silent || both || up >= TABLE_GRACE
                }
            };
        }
        if self.peers.values().all(|peer| peer.converged || peer.departed) {
            self.finish_convergence();
        }
    }

    pub(super) fn finish_convergence(&mut self) {
        if !self.converged {
            self.converged = true;
            self.converging_since = None;
            self.emit(SpeakerEvent::Converged);
        }
        if self.originated_given {
            // What peers hear from now on is no restart any more.
            self.restarting = false;
        }
    }
}
