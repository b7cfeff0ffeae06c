//! Who asks over the admin socket, by the word of the kernel.

use std::time::Duration;

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixStream, task::spawn_blocking, time::timeout};

/// The name of a user may come from a directory in the network. A verb does not wait for it for longer than this.
const LONGEST_LOOK_UP: Duration = Duration::from_secs(1);

/// The process at the other end of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asker {
    /// Its user; `None` where the system does not say.
    pub uid: Option<u32>,
    pub pid: Option<i32>,
}

impl Asker {
    pub fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        Self { uid: credentials.map(|one| one.uid()), pid: credentials.and_then(|one| one.pid()) }
    }

    /// The name of its user, where there is one that is found in time.
    pub async fn user(self) -> Option<String> {
        let uid = Uid::from_raw(self.uid?);
        let look_up = spawn_blocking(move || User::from_uid(uid).ok().flatten());
        let user = timeout(LONGEST_LOOK_UP, look_up).await.ok()?.ok()??;
        Some(user.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_says_who_is_at_the_other_end() {
        let (one, _other) = UnixStream::pair().unwrap();
        let asker = Asker::of(&one);
        let own = nix::unistd::geteuid();
        assert_eq!((asker.uid, asker.pid), (Some(own.as_raw()), i32::try_from(std::process::id()).ok()));
        assert_eq!(asker.user().await, User::from_uid(own).unwrap().map(|user| user.name));
        assert_eq!(Asker { uid: None, pid: None }.user().await, None);
    }
}
