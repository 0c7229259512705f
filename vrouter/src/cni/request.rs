//! What do the plugin and the node say to each other?
//!
//! One request and one answer per connection, each one JSON document; the side that has finished
//! speaking closes its direction.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::MAX_MESSAGE;
use super::config::{Attachment, NetConf, PodArgs};
use super::result::{AddResult, CniError};

/// What the runtime wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum CniRequest {
    /// Attach a pod, or attach it again.
    Add(AddRequest),
    /// Detach a pod, as far as it is attached.
    Del(DelRequest),
    /// Is the pod attached as it was?
    Check(CheckRequest),
    /// Detach every pod that is not in the list.
    Gc(GcRequest),
    /// Could a pod be attached now?
    Status,
}

/// Attach a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddRequest {
    /// Whose interface.
    pub attachment: Attachment,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// What the runtime says of the pod.
    pub args: PodArgs,
    /// The network configuration.
    pub config: NetConf,
}

/// Detach a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelRequest {
    /// Whose interface.
    pub attachment: Attachment,
    /// The path of the pod's network namespace; absent if it is gone.
    pub netns: Option<PathBuf>,
    /// What the runtime says of the pod.
    pub args: PodArgs,
    /// The network configuration.
    pub config: NetConf,
}

/// Check a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Whose interface.
    pub attachment: Attachment,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// What the runtime says of the pod.
    pub args: PodArgs,
    /// The network configuration.
    pub config: NetConf,
    /// What ADD answered.
    pub expected: AddResult,
}

/// Detach what is left over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GcRequest {
    /// The network configuration; attachments of other networks are not meant.
    pub config: NetConf,
    /// What still exists.
    pub valid: BTreeSet<Attachment>,
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CniReply {
    /// ADD succeeded.
    Added(AddResult),
    /// Anything else succeeded.
    Done,
    /// It failed.
    Error(CniError),
}

/// Sends one document and closes this direction.
pub(super) fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)
}

/// Receives one document: everything until the other side closes its direction.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut bytes = Vec::new();
    stream.take(MAX_MESSAGE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the message is larger than {MAX_MESSAGE} bytes"),
        ));
    }
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
