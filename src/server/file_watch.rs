//! Reads the configuration again when its file has changed, where `reload_on_change` asks for it.
//!
//! The file is looked at once a second, and not watched by inotify: a look follows every link, so that the file of a
//! Kubernetes ConfigMap, which is swapped as a link to a link, is the same as one that an editor renames, on any file
//! system. tls/renew.rs looks at certificates in the same way.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::server::reload::Reloader;

/// How often the file is looked at. A change counts once two looks in a row have seen the same, so that a file that is
/// being written is read when it is whole.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What tells two versions of a file apart: device, inode, length, and time of the last change in nanoseconds.
type Version = (u64, u64, u64, i128);

fn version(metadata: &Metadata) -> Version {
    let changed = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    (metadata.dev(), metadata.ino(), metadata.len(), changed)
}

/// Which version has been read, and which one has been seen since.
#[derive(Debug, Default)]
struct Seen {
    read: Option<Version>,
    last: Option<Version>,
}

impl Seen {
    /// Whether the file is to be read now that it is this version; `None` while there is none, as between the two steps
    /// of a swap. What is there at the first look has been read at the start.
    fn look(&mut self, now: Option<Version>) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        let Some(now) = now else { return false };
        let Some(read) = self.read else {
            self.read = Some(now);
            return false;
        };
        let is_due = now != read && last == Some(now);
        if is_due {
            self.read = Some(now);
        }
        is_due
    }
}

/// Looks at the file until `stop`.
pub async fn watch(reloader: &Reloader, stop: CancellationToken) {
    let Some(path) = reloader.file().map(PathBuf::from) else { return stop.cancelled().await };
    let mut seen = Seen::default();
    let watching = async {
        loop {
            if reloader.is_taken_over() {
                // The other process has it. Where that does not serve in the end, the change is found then.
                sleep(LOOK_INTERVAL).await;
                continue;
            }
            // A file system that hangs keeps a thread waiting that nobody else needs.
            let path = path.clone();
            let now = spawn_blocking(move || fs::metadata(path).ok().map(|metadata| version(&metadata))).await;
            let is_due = seen.look(now.ok().flatten());
            if is_due && reloader.in_force().reload_on_change {
                // The log says what came of it.
                drop(reloader.reload("the file has changed").await);
            }
            sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let (mut seen, version) = (Seen::default(), |n| Some((1, n, 10, 0)));
        let looks = [
            (version(1), false, "read at the start"),
            (version(1), false, "nothing new"),
            (version(2), false, "it may be half written"),
            (version(3), false, "it was"),
            (version(3), true, "it is whole"),
            (version(3), false, "it has been read"),
            (None, false, "it is being swapped"),
            (version(4), false, "a new one"),
            (version(4), true, "it stays"),
            (None, false, "it is gone"),
            (version(4), false, "the same is back"),
            (version(4), false, "it has been read"),
        ];
        for (n, (now, due, why)) in looks.into_iter().enumerate() {
            assert_eq!(seen.look(now), due, "look {n}: {why}");
        }
    }
}
