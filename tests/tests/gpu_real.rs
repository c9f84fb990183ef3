//! What a machine with a GPU of NVIDIA's shows: its driver in an image that has none. The program that asks the driver is tried
//! on a made-up one everywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::temp_dir;
use coracle_tests::gpu_tree::{GlibcImage, Library};
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Asks the driver's interface.
const ASK: &str = include_str!("../src/gpu_ask.c");
/// Stands for the driver.
const FAKE: &str = include_str!("../src/gpu_fake.c");
/// Of the host's bandwidth; what is below is more than noise.
const WITHIN: f64 = 0.9;
/// Times that host and container take turns.
const ROUNDS: usize = 3;

/// The program that asks, for the host.
fn on_host(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("ask.c"), dir.join("gpu-ask"));
    fs::write(&source, ASK).unwrap();
    let mut command = Command::new(needs::find_tool("gcc").expect("gcc"));
    run(command.arg("-Wall").arg("-Werror").arg("-o").arg(&program).arg(&source).arg("-ldl")).success();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    program
}

fn rate(output: &Finished) -> f64 {
    let rate = output.stdout.trim().strip_suffix(" MB/s").and_then(|number| number.parse().ok());
    rate.unwrap_or_else(|| panic!("no rate: {output:?}"))
}

#[test]
fn the_program_that_asks_tells_right_from_wrong() {
    needs!(Tool("gcc"));
    let dir = temp_dir();
    let program = on_host(dir.path());
    // libc's functions are there in whatever process opens it.
    Library { source: FAKE.to_owned(), ..Library::new("libcuda.so.1") }.make(&dir.path().join("libcuda.so.1"));
    let ask = |what: &str, mood: &str| {
        let mut command = Command::new(&program);
        run(command.arg(what).env("LD_LIBRARY_PATH", dir.path()).env("FAKE_CUDA", mood))
    };
    assert_eq!(ask("count", "").success().stdout, "GPUs 1\n");
    assert_eq!(ask("add", "").success().stdout, "added 1048576\n");
    assert!(rate(&ask("bandwidth", "").success()) > 0.0);
    assert_eq!(ask("add", "refuse").exited(1).stdout, "cuInit: error 100\n");
    assert_eq!(ask("count", "empty").success().stdout, "GPUs 0\n");
    assert_eq!(ask("add", "empty").exited(1).stdout, "cuDeviceGet: error 101\n");
    assert!(ask("add", "wrong").exited(1).stdout.starts_with("element 1048575 is "));
    assert!(ask("bandwidth", "wrong").exited(1).stdout.starts_with("what arrived is not what was sent"));
    ask("sing", "").exited(2);
}

#[test]
fn gpu_a_real_one_works_in_a_container() {
    needs!(Coracle, Fuse, Gpu, Tool("gcc"), Tool("ldconfig"), Tool("busybox"));
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let program = on_host(dir.path());
    let image = GlibcImage::new();
    image.compile("gcc", "gpu-ask", ASK, &["-ldl"]);
    let file = dir.path().join("ask.sqfs");
    image.pack(&file);
    let launch = |options: &[&str], words: &[&str]| {
        let mut command = user.coracle(dir.path(), ["exec"]);
        run(command.args(options).arg(&file).args(words))
    };
    let host = |what: &str| run(Command::new(&program).arg(what)).success();
    assert!(!launch(&[], &["gpu-ask", "count"]).status.success(), "there is a driver without --nv");

    // A kernel, compiled by the driver: libcuda, its compiler and the devices work together.
    for options in [["--nv"].as_slice(), &["--nv", "--contain", "--cleanenv"], &["--nv", "--no-session"]] {
        assert_eq!(launch(options, &["gpu-ask", "add"]).success().stdout, "added 1048576\n", "{options:?}");
    }
    let listed = launch(&["--nv"], &["nvidia-smi", "-L"]).success().stdout;
    assert_eq!(listed, run(Command::new(needs::find_tool("nvidia-smi").unwrap()).arg("-L")).success().stdout);

    // Hidden by policy: neither management nor computing sees it, nor is its node there.
    let hidden = ["--nv", "--contain", "--env", "NVIDIA_VISIBLE_DEVICES=none"];
    let smi = launch(&hidden, &["nvidia-smi", "-L"]);
    assert!(!smi.stdout.contains("GPU 0"), "{smi:?}");
    let count = launch(&hidden, &["gpu-ask", "count"]);
    assert!(!count.status.success() || count.stdout == "GPUs 0\n", "{count:?}");
    let nodes = launch(&hidden, &["ls", "/dev"]).success().stdout;
    let of_gpu = |name: &str| name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok());
    assert!(!nodes.split_whitespace().any(of_gpu), "{nodes}");

    // In turns, and the best of each, so that what else the machine does counts for both.
    let (mut outside, mut inside) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        outside = outside.max(rate(&host("bandwidth")));
        inside = inside.max(rate(&launch(&["--nv"], &["gpu-ask", "bandwidth"]).success()));
    }
    eprintln!("to the device: {outside} MB/s on the host, {inside} MB/s in a container");
    assert!(inside >= WITHIN * outside, "{inside} MB/s in the container, {outside} MB/s on the host");
}
