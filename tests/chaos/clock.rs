//! The clock of weir's machine is set, forwards and backwards, by days and by years. The servers' and the clients'
//! clocks are not: nothing between weir and them may depend on the time of day.
//!
//! A time namespace shifts only the clocks that nobody sets. So a library that is loaded before the C library
//! (`clock_step.c`) shifts the one that is set; Go programs such as nats-server do not ask the C library.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    time::{Instant, SystemTime},
};

use serde_json::Value;
use weir_testkit::*;

use crate::scene::{EAGER, Scene, all_come, nothing};

const DAY: i64 = 24 * 60 * 60;

/// The library in this folder, if this machine has a C compiler.
fn library(folder: &Path) -> Option<String> {
    let (source, made) = (project().join("tests/chaos/clock_step.c"), folder.join("clock_step.so"));
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&made).arg(source).stderr(Stdio::null());
    compile.status().is_ok_and(|status| status.success()).then(|| made.display().to_string())
}

/// How far weir's clock of the day is from ours, in days.
async fn days_off(weir: &Weir) -> i64 {
    let (_, varz) = http::get(&weir.monitor, "/varz").await.expect("/varz");
    let varz: Value = serde_json::from_str(&varz).expect("JSON");
    // As far as days: the fraction and the zone are left out.
    let now = &varz["now"].as_str().expect("its time")[.."2026-11-26T17:31:18".len()];
    let theirs = humantime::parse_rfc3339(&format!("{now}Z")).expect("a time");
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    (seconds(theirs) - seconds(SystemTime::now()) + DAY / 2).div_euclid(DAY)
}

async fn the_clock_is_set(library: &str, meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let clock = OpenOptions::new().write(true).open(file.path()).expect("the clock");
    let set = |days: i64| clock.write_all_at(&(days * DAY).to_ne_bytes(), 0).expect("set the clock");
    set(0);
    let at = file.path().display().to_string();
    let configure =
        |config: WeirConfig, _: &Cluster| config.environment("WEIR_TEST_CLOCK", &at).environment("LD_PRELOAD", library);
    let mut scene = Scene::start_with(|server| server, configure, EAGER).await;
    let mut meanwhile = Some(meanwhile);
    for days in [1, -1, 3650, -3650, 0] {
        set(days);
        assert_eq!(days_off(&scene.weir).await, days, "weir's clock is set");
        all_come(&scene, 3).await;
        if days == 3650
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile(&mut scene).await;
        }
        for path in ["/varz", "/connz?state=all&subs=1", "/accstatz", "/reportz", "/overviewz", "/storms", "/metrics"] {
            let (status, said) = http::get(&scene.weir.monitor, path).await.expect("an answer");
            assert_eq!(status, 200, "{days} days, {path}: {said}");
        }
        scene.recovers("weir's clock of the day set by days and years", Instant::now()).await;
        assert_eq!(scene.lost(), 0, "{days} days: {:?} {:?}", scene.orders.ends(), scene.rest.ends());
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_the_day_is_set() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library(folder.path()) else {
        return skip("needs a C compiler (cc) for a library that shifts weir's clock");
    };
    the_clock_is_set(&library, nothing).await;
}
