//! `[admin]`: the socket over which an operator asks weir to do something.

use std::path::PathBuf;

use crate::config::{
    effective::toml_string,
    finding::Problem,
    leaf::{Any, Leaf, wrong_type},
    node::Node,
    section::Section,
};

/// The longest path that the address of a Unix socket holds on Linux, in bytes (`sun_path`, less the zero at its end).
const LONGEST: usize = 107;

/// The admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Its path.
    pub socket: PathBuf,
}

pub(super) fn admin(s: &mut Section<'_>) -> AdminConfig {
    let socket = s.value("socket", SocketPath("weir.sock".into()), Any);
    AdminConfig { socket: socket.0 }
}

#[derive(PartialEq)]
struct SocketPath(PathBuf);

impl Leaf for SocketPath {
    fn kind() -> String {
        format!("path of at most {LONGEST} bytes")
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write the path of a socket, such as \"weir.sock\"";
        match node {
            Node::String(text) if text.is_empty() => Err(Problem::new("it is empty", REMEDY)),
            Node::String(text) if text.len() > LONGEST => {
                let what = format!("it has {} bytes, and the path of a socket at most {LONGEST}", text.len());
                Err(Problem::new(what, "write a shorter one"))
            }
            Node::String(text) => Ok(Self(text.into())),
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        toml_string(&self.0.to_string_lossy())
    }
}
