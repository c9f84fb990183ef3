//! GPU drivers: found in made-up trees of hosts, decided on for made-up images, and brought into real containers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle::gpu::discover::{self, Found, Root, Wanted, discover};
use coracle::gpu::image::ImageLibraries;
use coracle::gpu::inject::{self, Ground, Injection, LIBRARIES, Verdict, inject};
use coracle::gpu::table::{Capability, Kind, Vendor};
use coracle::libraries::cache::{Cache, Processor};
use coracle::libraries::{Abi, elf::Elf};
use coracle_tests::gpu_tree::{GlibcImage, GpuTree, Layout, Library};
use coracle_tests::needs;
use coracle_tests::process::{User, coracle_binary, run};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "550.54.15";

fn find(tree: &GpuTree, vendor: Vendor, wanted: &Wanted) -> Result<Option<Found>, discover::Error> {
    Ok(discover(&Root::new(tree.root()), &[vendor], wanted)?.pop())
}

/// For programs of this machine, whatever the tests run on: the made-up libraries are for x86-64.
fn usual() -> Wanted {
    Wanted { abi: Abi::X86_64, ..Wanted::default() }
}

fn nvidia(tree: &GpuTree) -> Found {
    find(tree, Vendor::Nvidia, &usual()).unwrap().expect("a driver")
}

fn sonames(found: &Found) -> Vec<&str> {
    let mut names: Vec<&str> = found.libraries.iter().map(|library| library.soname.as_str()).collect();
    names.sort_unstable();
    names
}

fn path_of<'f>(found: &'f Found, soname: &str) -> &'f Path {
    &found.libraries.iter().find(|library| library.soname == soname).unwrap_or_else(|| panic!("no {soname}")).path
}

#[test]
fn a_driver_is_found_on_every_distribution() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    for layout in Layout::NATIVE {
        let tree = GpuTree::nvidia(layout, VERSION);
        let found = nvidia(&tree);
        let expected = [
            "libGLX_nvidia.so.0",
            "libOpenCL.so.1",
            "libcuda.so.1",
            "libnvidia-egl-gbm.so.1",
            "libnvidia-glcore.so.550.54.15",
            "libnvidia-ml.so.1",
            "libnvidia-ptxjitcompiler.so.1",
        ];
        assert_eq!(sonames(&found), expected, "{layout:?}");
        assert_eq!(found.driver_version.as_deref(), Some(VERSION));
        // Through links and alternatives to the file itself.
        let file = PathBuf::from(layout.libraries()).join(format!("libcuda.so.{VERSION}"));
        assert_eq!(path_of(&found, "libcuda.so.1"), file, "{layout:?}");
        let files: Vec<_> = found.files.iter().map(|file| (file.kind, file.destination.to_str().unwrap())).collect();
        for wanted in [
            (Kind::Utility, "/usr/bin/nvidia-smi"),
            (Kind::Utility, "/usr/bin/nvidia-cuda-mps-control"),
            (Kind::Firmware, "/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin"),
            (Kind::Socket, "/run/nvidia-persistenced/socket"),
            (Kind::Configuration, "/etc/OpenCL/vendors/nvidia.icd"),
            (Kind::Configuration, "/usr/share/vulkan/icd.d/nvidia_icd.json"),
        ] {
            assert!(files.contains(&wanted), "{layout:?}: {wanted:?} in {files:?}");
        }
        let nodes: Vec<_> = found.nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
        assert_eq!(nodes, ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"]);
        let gpu = &found.devices[0];
        assert_eq!((gpu.name.as_str(), gpu.minor, gpu.pci.as_deref()), ("0", Some(0), Some("0000:07:00.0")));
        assert_eq!(gpu.uuid.as_deref(), Some("GPU-00000000-0000-0000-0000-000000000000"));
        let nodes: Vec<_> = gpu.nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
        assert_eq!(nodes, ["/dev/nvidia0", "/dev/dri/renderD128"]);
        assert!(found.warnings.is_empty() && found.notes.is_empty(), "{found:?}");
    }
}

#[test]
fn only_what_is_wanted_is_found() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Ubuntu, VERSION);
    let capabilities = [Capability::Utility].into_iter().collect();
    let found = find(&tree, Vendor::Nvidia, &Wanted { capabilities, ..usual() }).unwrap().unwrap();
    assert_eq!(sonames(&found), ["libnvidia-ml.so.1"]);
    assert!(found.files.iter().all(|file| file.capability == Capability::Utility), "{:?}", found.files);
    assert!(found.nodes.iter().all(|node| node.path != Path::new("/dev/nvidia-uvm")), "{:?}", found.nodes);
}

#[test]
fn the_loaders_cache_is_read_in_all_its_formats() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Rhel, VERSION);
    let expected = sonames(&nvidia(&tree)).len();
    // One that is for newer processors.
    Library::new("libnewer.so.1").make(&tree.at("/usr/lib64/glibc-hwcaps/x86-64-v3/libnewer.so.1"));
    Library::new("libnewer.so.1").make(&tree.at("/usr/lib64/libnewer.so.1"));
    for format in ["old", "compat", "new"] {
        tree.ldconfig_format(format);
        let bytes = fs::read(tree.at("/etc/ld.so.cache")).unwrap();
        assert_eq!(bytes.starts_with(b"ld.so-1.7.0"), format != "new", "{format}");
        assert_eq!(sonames(&nvidia(&tree)).len(), expected, "{format}");
        let cache = Cache::parse(&bytes).unwrap();
        assert_eq!(Cache::parse(&cache.write()).unwrap(), cache, "{format}");
        let newer = cache.entries().iter().filter(|entry| entry.soname == "libnewer.so.1");
        let newer: Vec<_> = newer.map(|entry| entry.needs.clone()).collect();
        let named = Processor::Named("x86-64-v3".into());
        assert_eq!(newer.contains(&named), format != "old", "{format}: {newer:?}");
    }
    // Without one, as where every program has its paths written into it, the usual directories are looked through.
    fs::remove_file(tree.at("/etc/ld.so.cache")).unwrap();
    let found = nvidia(&tree);
    assert_eq!(sonames(&found).len(), expected);
    assert!(found.notes.iter().any(|note| note.contains("/etc/ld.so.cache")), "{:?}", found.notes);
    fs::write(tree.at("/etc/ld.so.cache"), "nonsense").unwrap();
    let found = nvidia(&tree);
    assert!(found.notes.iter().any(|note| note.contains("not a cache")), "{:?}", found.notes);
}

#[test]
fn libraries_of_another_version_than_the_module_are_refused() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Ubuntu, VERSION);
    tree.module("550.90.07");
    let error = find(&tree, Vendor::Nvidia, &usual()).unwrap_err().to_string();
    for part in ["550.90.07", VERSION, "libcuda.so.550.54.15", "restarted"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // The right one beside it, which the loader does not prefer, is taken; the rest of the old driver is left out.
    let directory = "/opt/new";
    for soname in ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"] {
        let stem = soname.split(".so").next().unwrap();
        Library::new(soname).make(&tree.at(&format!("{directory}/{stem}.so.550.90.07")));
        tree.link(&format!("{directory}/{soname}"), &format!("{stem}.so.550.90.07"));
    }
    tree.write("/etc/ld.so.conf.d/zz.conf", "/opt/new\n");
    tree.ldconfig();
    let found = nvidia(&tree);
    assert_eq!(path_of(&found, "libcuda.so.1"), Path::new("/opt/new/libcuda.so.550.90.07"));
    assert_eq!(found.driver_version.as_deref(), Some("550.90.07"));
    assert!(!sonames(&found).contains(&"libnvidia-glcore.so.550.54.15"));
    assert!(found.notes.iter().any(|note| note.contains("libnvidia-glcore.so.550.54.15")), "{:?}", found.notes);
}

#[test]
fn libraries_for_other_programs_are_told_apart() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Suse, VERSION);
    let narrow = Library { narrow: true, ..Library::new("libcuda.so.1") };
    tree.library(&narrow, &format!("libcuda.so.{VERSION}"));
    tree.ldconfig();
    let cuda = |found: &Found| {
        let cuda = found.libraries.iter().filter(|library| library.soname == "libcuda.so.1");
        cuda.map(|library| (library.abi, library.path.clone())).collect::<Vec<_>>()
    };
    let wide = (Abi::X86_64, PathBuf::from("/usr/lib64/libcuda.so.550.54.15"));
    assert_eq!(cuda(&nvidia(&tree)), std::slice::from_ref(&wide));
    let mut both = usual();
    both.capabilities.insert(Capability::Compat32);
    let found = find(&tree, Vendor::Nvidia, &both).unwrap().unwrap();
    assert_eq!(cuda(&found), [wide, (Abi::I386, PathBuf::from("/usr/lib/libcuda.so.550.54.15"))]);
    // A cache that lies about a file does not mislead.
    fs::copy(tree.at("/usr/lib/libcuda.so.550.54.15"), tree.at("/usr/lib64/libcuda.so.550.54.15")).unwrap();
    assert_eq!(cuda(&nvidia(&tree)), []);
}

#[test]
fn instances_and_channels_have_their_nodes() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Rhel, VERSION);
    tree.gpu(1, "NVIDIA H100 80GB HBM3");
    tree.mig(1, 3, 0, [156, 157]);
    tree.mig(1, 5, 0, [174, 175]);
    tree.capability("/proc/driver/nvidia/capabilities/mig/monitor", 2);
    tree.node("/dev/nvidia-caps-imex-channels/channel0");
    tree.node("/dev/nvidia-nvswitchctl");
    tree.node("/dev/nvidia-nvswitch0");
    tree.node("/dev/gdrdrv");
    tree.node("/tmp/nvidia-mps/control");
    tree.node("/run/nvidia-fabricmanager/socket");
    let found = nvidia(&tree);
    let names: Vec<_> = found.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["0", "1", "1:3:0", "1:5:0"]);
    let nodes: Vec<_> = found.devices[2].nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
    assert_eq!(nodes, ["/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap156", "/dev/nvidia-caps/nvidia-cap157"]);
    let access = found.devices[2].nodes[2].access.as_deref().unwrap();
    assert_eq!(access, Path::new("/proc/driver/nvidia/capabilities/gpu1/mig/gi3/ci0/access"));
    let nodes: Vec<_> = found.nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
    for node in [
        "/dev/nvidia-caps-imex-channels/channel0",
        "/dev/nvidia-nvswitchctl",
        "/dev/nvidia-nvswitch0",
        "/dev/gdrdrv",
        "/dev/nvidia-caps/nvidia-cap2",
    ] {
        assert!(nodes.contains(&node), "{node} in {nodes:?}");
    }
    let sockets: Vec<_> =
        found.files.iter().filter(|file| file.kind == Kind::Socket).map(|file| file.path.to_str().unwrap()).collect();
    assert_eq!(sockets, ["/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket", "/tmp/nvidia-mps"]);
}

#[test]
fn a_gpu_that_was_taken_away_is_not_offered() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Rhel, VERSION);
    tree.gpu(1, "NVIDIA A100-SXM4-40GB");
    fs::remove_file(tree.at("/dev/nvidia0")).unwrap();
    let found = nvidia(&tree);
    assert_eq!(found.devices.iter().map(|gpu| gpu.minor).collect::<Vec<_>>(), [Some(1)]);
    // Where /proc says nothing, the nodes count.
    fs::remove_dir_all(tree.at("/proc/driver/nvidia/gpus")).unwrap();
    assert_eq!(nvidia(&tree).devices[0].minor, Some(1));
    fs::remove_file(tree.at("/dev/nvidia1")).unwrap();
    let found = nvidia(&tree);
    assert!(found.warnings[0].contains("no GPU"), "{:?}", found.warnings);
}

#[test]
fn windows_and_boards_have_drivers_of_their_own() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::nvidia(Layout::Wsl, VERSION);
    let found = nvidia(&tree);
    assert_eq!(found.layout, discover::Layout::Wsl);
    assert_eq!(sonames(&found), ["libcuda.so.1", "libdxcore.so", "libnvidia-ml.so.1"]);
    let directories: Vec<_> = found.files.iter().filter(|file| file.kind == Kind::Directory).collect();
    assert!(directories[0].path.ends_with("nv_dispi.inf_amd64_0123456789abcdef") && directories.len() == 1);
    assert!(found.files.iter().any(|file| file.path == Path::new("/usr/lib/wsl/lib/nvidia-smi")));
    assert_eq!(found.devices[0].nodes[0].path, Path::new("/dev/dxg"));

    let tree = GpuTree::nvidia(Layout::Jetson, VERSION);
    let listed = nvidia(&tree);
    assert_eq!((listed.layout, listed.driver_version.as_deref()), (discover::Layout::Tegra, Some("R35.4.1")));
    assert_eq!(sonames(&listed), ["libcuda.so.1", "libnvrm_gpu.so"]);
    assert_eq!(listed.links[0].target, Path::new("libcuda.so.1.1"));
    assert_eq!(listed.devices[0].nodes.len(), 2);
    assert!(listed.files.iter().any(|file| file.destination == Path::new("/lib/firmware/tegra23x")));
    assert!(listed.notes.iter().any(|note| note.contains("libgone.so")), "{:?}", listed.notes);
    // Without lists, all of the board's directory.
    fs::remove_dir_all(tree.at("/etc/nvidia-container-runtime")).unwrap();
    let all = nvidia(&tree);
    assert_eq!(sonames(&all), ["libcuda.so.1", "libnvrm_gpu.so"]);
    assert_eq!(all.devices[0].nodes.len(), 2);
}

#[test]
fn amd_and_intel_are_known_by_their_numbers() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let tree = GpuTree::new(Layout::Rhel);
    tree.drm(128, "0x1002", "0000:c3:00.0");
    tree.drm(129, "0x8086", "0000:00:02.0");
    tree.node("/dev/kfd");
    for (soname, file) in
        [("libze_intel_gpu.so.1", "libze_intel_gpu.so.1.3.0"), ("libigdgmm.so.12", "libigdgmm.so.12.5")]
    {
        tree.library(&Library::new(soname), file);
    }
    Library::new("libigdrcl.so").make(&tree.at("/usr/lib64/intel-opencl/libigdrcl.so"));
    tree.write("/etc/OpenCL/vendors/intel.icd", "/usr/lib64/intel-opencl/libigdrcl.so\n");
    tree.ldconfig();
    let amd = find(&tree, Vendor::Amd, &usual()).unwrap().unwrap();
    assert_eq!(amd.nodes[0].path, Path::new("/dev/kfd"));
    assert_eq!(amd.devices.iter().map(|gpu| gpu.pci.as_deref()).collect::<Vec<_>>(), [Some("0000:c3:00.0")]);
    assert_eq!(amd.devices[0].nodes[0].path, Path::new("/dev/dri/renderD128"));
    assert!(amd.libraries.is_empty());
    let intel = find(&tree, Vendor::Intel, &usual()).unwrap().unwrap();
    assert_eq!(sonames(&intel), ["libigdgmm.so.12", "libze_intel_gpu.so.1"]);
    assert_eq!(intel.devices[0].nodes[0].path, Path::new("/dev/dri/renderD129"));
    assert_eq!(intel.files.len(), 2, "{:?}", intel.files);
    assert!(find(&tree, Vendor::Nvidia, &usual()).unwrap().is_none());
    // The image's own runtime keeps the host's out, as a whole.
    let image = GlibcImage::new();
    let decide = |image: &GlibcImage| {
        coracle_tests::gpu_tree::ldconfig(image.root(), "new");
        decided(std::slice::from_ref(&intel), image.root()).unwrap()
    };
    let with = |injection: &Injection, name: &str| {
        let bound = injection.binds.iter().any(|bind| bind.destination.ends_with(name));
        bound || injection.library(LIBRARIES, name).is_some()
    };
    let host = decide(&image);
    assert!(with(&host, "libze_intel_gpu.so.1") && with(&host, "libigdgmm.so.12") && with(&host, "intel.icd"));
    Library::new("libigdgmm.so.12").make(&image.root().join("usr/lib/x86_64-linux-gnu/libigdgmm.so.12"));
    let own = decide(&image);
    assert!(!with(&own, "libze_intel_gpu.so.1") && !with(&own, "libigdgmm.so.12") && !with(&own, "intel.icd"));
    assert_eq!(own.gpus[0].nodes, [PathBuf::from("/dev/dri/renderD129")]);
    let warnings = decided(&[amd], image.root()).unwrap().warnings;
    assert!(warnings[0].contains("no ROCm"), "{warnings:?}");
}

const GROUND: Ground = Ground { abi: Abi::X86_64, writable: false };

/// What an image that lies in a directory gets.
fn decided(found: &[Found], image: &Path) -> Result<Injection, inject::Error> {
    let tree = Root::new(image);
    inject(found, &ImageLibraries::read(&tree, Abi::X86_64)?, GROUND)
}

fn verdict<'i>(injection: &'i Injection, soname: &str) -> &'i Verdict {
    let decision = injection.libraries.iter().find(|decision| decision.soname == soname);
    &decision.unwrap_or_else(|| panic!("nothing about {soname}")).verdict
}

/// What the loader would be told.
fn told(injection: &Injection, soname: &str) -> Vec<PathBuf> {
    let (path, content) = &injection.over[0];
    assert_eq!(path, Path::new("/etc/ld.so.cache"));
    let cache = Cache::parse(&content.0).unwrap();
    cache.find(OsStr::new(soname), Abi::X86_64).map(Path::to_path_buf).collect()
}

#[test]
fn the_image_keeps_its_own_and_the_driver_its_versions() {
    needs!(Tool("gcc"), Tool("ldconfig"), Tool("busybox"));
    let host = GpuTree::nvidia(Layout::Debian, VERSION);
    let image = GlibcImage::new();
    // One that works with any driver, and one that only works with its own.
    for soname in ["libOpenCL.so.1", "libcuda.so.1"] {
        Library::new(soname).make(&image.root().join("usr/lib/x86_64-linux-gnu").join(soname));
    }
    coracle_tests::gpu_tree::ldconfig(image.root(), "new");
    let injection = decided(&[nvidia(&host)], image.root()).unwrap();
    assert!(injection.warnings.is_empty(), "{:?}", injection.warnings);
    assert!(matches!(verdict(&injection, "libOpenCL.so.1"), Verdict::Image(_)));
    assert_eq!(*verdict(&injection, "libcuda.so.1"), Verdict::Host);
    let ours = |name: &str| vec![Path::new(LIBRARIES).join(name)];
    assert_eq!(told(&injection, "libcuda.so.1"), ours("libcuda.so.1"));
    assert_eq!(told(&injection, "libcuda.so"), ours("libcuda.so"), "under the name for linking, too");
    assert_eq!(told(&injection, "libOpenCL.so.1"), [Path::new("/lib/x86_64-linux-gnu/libOpenCL.so.1")]);
    assert_eq!(told(&injection, "libstdc++.so.6"), [Path::new("/lib/x86_64-linux-gnu/libstdc++.so.6")]);
    let file = Path::new("/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.550.54.15");
    assert_eq!(injection.library(LIBRARIES, "libcuda.so.1").as_deref(), Some(file));
    assert_eq!(injection.library(LIBRARIES, "libcuda.so").as_deref(), Some(file));
    assert_eq!(injection.library(LIBRARIES, "libOpenCL.so.1"), None);
    // Of a directory with many, the whole is bound, once.
    let shown: Vec<_> = injection.binds.iter().filter(|bind| bind.destination.starts_with(inject::HOST)).collect();
    let directory = shown.iter().filter(|bind| bind.source == file.parent().unwrap());
    assert_eq!(directory.map(|bind| bind.destination.clone()).collect::<Vec<_>>(), [Path::new(inject::HOST).join("0")]);
    assert_eq!(shown.len(), 1, "{shown:?}");
    // A container that can be written to has an ldconfig that replaces the cache.
    let tree = Root::new(image.root());
    let libraries = ImageLibraries::read(&tree, Abi::X86_64).unwrap();
    let writable = inject(&[nvidia(&host)], &libraries, Ground { writable: true, ..GROUND }).unwrap();
    assert!(writable.over.is_empty());
    assert_eq!(writable.last, [PathBuf::from(LIBRARIES)]);
}

#[test]
fn an_image_that_is_too_old_is_told_what_it_lacks() {
    needs!(Tool("gcc"), Tool("ldconfig"), Tool("busybox"));
    let image = GlibcImage::new();
    coracle_tests::gpu_tree::ldconfig(image.root(), "new");
    let host = GpuTree::nvidia(Layout::Rhel, VERSION);
    host.library(&Library::needing("libnvidia-egl-gbm.so.1", "libc.so.6", "GLIBC_9.99"), "libnvidia-egl-gbm.so.1.1.1");
    let injection = decided(&[nvidia(&host)], image.root()).unwrap();
    assert!(
        matches!(verdict(&injection, "libnvidia-egl-gbm.so.1"), Verdict::LeftOut(why) if why.contains("GLIBC_9.99"))
    );
    let warning = injection.warnings.join("\n");
    assert!(warning.contains("libnvidia-egl-gbm.so.1") && warning.contains("ends at GLIBC_2."), "{warning}");
    assert!(told(&injection, "libnvidia-egl-gbm.so.1").is_empty());
    for (library, version) in [("libc.so.6", "GLIBC_9.99"), ("libstdc++.so.6", "GLIBCXX_9.9.99")] {
        let host = GpuTree::nvidia(Layout::Rhel, VERSION);
        host.library(&Library::needing("libcuda.so.1", library, version), &format!("libcuda.so.{VERSION}"));
        let error = decided(&[nvidia(&host)], image.root()).unwrap_err().to_string();
        let there = if library == "libc.so.6" { "ends at GLIBC_2." } else { "ends at GLIBCXX_3." };
        for part in ["libcuda.so.550.54.15", version, library, there, "--gpu=off"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    // What the image lacks altogether is no matter of versions.
    let host = GpuTree::nvidia(Layout::Rhel, VERSION);
    host.library(&Library::needing("libcuda.so.1", "libX11.so.6", "X_9"), &format!("libcuda.so.{VERSION}"));
    assert_eq!(*verdict(&decided(&[nvidia(&host)], image.root()).unwrap(), "libcuda.so.1"), Verdict::Host);
}

#[test]
fn musl_and_unknown_loaders_are_told_apart() {
    needs!(Tool("gcc"), Tool("ldconfig"));
    let host = GpuTree::nvidia(Layout::Ubuntu, VERSION);
    let image = coracle_tests::fixtures::temp_dir();
    let write = |path: &str, content: &str| {
        let file = image.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    };
    let unknown = decided(&[nvidia(&host)], image.path()).unwrap();
    assert_eq!(unknown.last, [PathBuf::from(LIBRARIES)]);
    assert!(unknown.warnings[0].contains("no C library"), "{:?}", unknown.warnings);
    write("lib/ld-musl-x86_64.so.1", "");
    let error = decided(&[nvidia(&host)], image.path()).unwrap_err().to_string();
    assert!(error.contains("musl") && error.contains("gcompat") && error.contains("libcuda.so"), "{error}");
    write("lib/libgcompat.so.0", "");
    write("etc/ld-musl-x86_64.path", "/opt/lib\n");
    let compatible = decided(&[nvidia(&host)], image.path()).unwrap();
    let (path, content) = &compatible.over[0];
    assert_eq!(path, Path::new("/etc/ld-musl-x86_64.path"));
    assert_eq!(String::from_utf8_lossy(&content.0), format!("/opt/lib\n{LIBRARIES}\n"));
    assert!(compatible.warnings[0].contains("musl"), "{:?}", compatible.warnings);
}

#[test]
fn a_newer_user_side_in_the_image_is_used_where_the_driver_allows_it() {
    needs!(Tool("gcc"), Tool("ldconfig"), Tool("busybox"));
    let image = GlibcImage::new();
    let directory = image.root().join("usr/local/cuda-12.8/compat");
    for (soname, file) in [
        ("libcuda.so.1", "libcuda.so.570.86.10"),
        ("libnvidia-ptxjitcompiler.so.1", "libnvidia-ptxjitcompiler.so.570.86.10"),
    ] {
        Library::new(soname).make(&directory.join(file));
        symlink(file, directory.join(soname)).unwrap();
    }
    symlink("cuda-12.8", image.root().join("usr/local/cuda")).unwrap();
    coracle_tests::gpu_tree::ldconfig(image.root(), "new");
    let compat = |version: &str, model: &str| {
        let host = GpuTree::nvidia(Layout::Rhel, version);
        host.gpu(0, model);
        decided(&[nvidia(&host)], image.root()).unwrap()
    };
    let used = compat(VERSION, "NVIDIA A100-SXM4-40GB");
    assert_eq!(told(&used, "libcuda.so.1"), [Path::new("/usr/local/cuda/compat/libcuda.so.1")]);
    // Management speaks to the kernel module.
    assert_eq!(told(&used, "libnvidia-ml.so.1"), [Path::new(LIBRARIES).join("libnvidia-ml.so.1")]);
    let chosen = used.compat.as_ref().unwrap();
    assert_eq!((chosen.version.as_str(), chosen.driver.as_str()), ("570.86.10", VERSION));
    assert!(used.loader[0].contains("570.86.10"), "{:?}", used.loader);
    for (version, model) in [
        ("570.133.20", "NVIDIA A100-SXM4-40GB"),
        ("580.65.06", "NVIDIA A100-SXM4-40GB"),
        ("418.226.00", "Tesla V100-SXM2-16GB"),
        (VERSION, "NVIDIA GeForce RTX 4090"),
    ] {
        let own = compat(version, model);
        assert_eq!(own.compat, None, "{version} {model}");
        assert_eq!(told(&own, "libcuda.so.1"), [Path::new(LIBRARIES).join("libcuda.so.1")]);
    }
}

#[test]
fn what_the_real_tools_made_is_understood() {
    needs!(Tool("gcc"));
    let dir = coracle_tests::fixtures::temp_dir();
    let file = dir.path().join("libx.so.1");
    Library::needing("libx.so.1", "libc.so.6", "GLIBC_9.99").make(&file);
    let elf = Elf::open(&file).unwrap();
    assert_eq!(elf.soname.as_deref(), Some("libx.so.1"));
    assert_eq!(elf.needs["libc.so.6"], ["GLIBC_9.99"]);
    let narrow = dir.path().join("narrow.so");
    Library { narrow: true, ..Library::new("libx.so.1") }.make(&narrow);
    let elf = Elf::open(&narrow).unwrap();
    assert_eq!((elf.abi, elf.soname.as_deref()), (Abi::I386, Some("libx.so.1")));
}

/// A host with a driver for the programs that are started on it: this one, in a mount namespace of its own in which made-up files
/// lie over the loader's cache, `/proc/driver` and `/dev`.
struct Dressed {
    user: User,
    dir: tempfile::TempDir,
}

/// Dresses the host up, and becomes the user who launches.
const DRESS: &str = r#"
set -e
fake=$1 uid=$2 gid=$3; shift 3
mount --bind "$fake/ld.so.cache" /etc/ld.so.cache
mount --bind "$fake/driver" /proc/driver
mkdir -p "$fake/dev"
mount -t tmpfs -o mode=755 fake "$fake/dev"
for name in null zero full random urandom tty fuse; do
    touch "$fake/dev/$name"
    mount --bind "/dev/$name" "$fake/dev/$name"
done
for name in nvidiactl nvidia0 nvidia-uvm; do echo "$name" > "$fake/dev/$name"; chmod 666 "$fake/dev/$name"; done
mkdir "$fake/dev/shm" "$fake/dev/pts"
mount --rbind "$fake/dev" /dev
exec setpriv --reuid="$uid" --regid="$gid" --clear-groups "$@"
"#;

impl Dressed {
    fn new() -> Self {
        let user = User::unprivileged();
        let dir = user.temp_dir();
        let this = Self { user, dir };
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n";
        fs::create_dir_all(this.at("driver/nvidia")).unwrap();
        fs::write(this.at("driver/nvidia/version"), version).unwrap();
        this.library(&Library {
            source: "int cuInit(unsigned flags) { return 42; }".into(),
            ..Library::new("libcuda.so.1")
        });
        this.library(&Library::new("libnvidia-ml.so.1"));
        this.library(&Library::new("libnvidia-ptxjitcompiler.so.1"));
        this.library(&Library { source: "int clMade(void) { return 1; }".into(), ..Library::new("libOpenCL.so.1") });
        this.cache();
        this
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A library of the driver.
    fn library(&self, library: &Library) {
        let stem = library.soname.split(".so").next().unwrap();
        let file = format!("{stem}.so.{VERSION}");
        library.make(&self.at("driver-libraries").join(&file));
        let link = self.at("driver-libraries").join(&library.soname);
        let _ = fs::remove_file(&link);
        symlink(file, link).unwrap();
    }

    /// The loader's cache, of this host's libraries and the driver's.
    fn cache(&self) {
        let mut command = Command::new(needs::find_tool("ldconfig").unwrap());
        command.arg("-X").arg("-C").arg(self.at("ld.so.cache")).arg(self.at("driver-libraries"));
        run(&mut command).success();
    }

    fn coracle(&self, words: &[&OsStr]) -> Command {
        let mut command = self.wrapped(coracle_binary().unwrap());
        command.args(words);
        command
    }

    /// A program on the host as it is dressed up.
    fn wrapped(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(needs::find_tool("unshare").unwrap());
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", DRESS, "dress"]);
        command.arg(self.dir.path()).arg(self.user.uid.to_string()).arg(self.user.gid.to_string());
        command.arg(program).current_dir(self.dir.path());
        command.env_clear().env("HOME", &self.user.home).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("CORACLE_SESSION_SCOPE", self.dir.path().file_name().unwrap()).env("CORACLE_SESSION_IDLE", "1");
        command
    }

    fn exec(&self, options: &[&str], image: &Path, words: &[&str]) -> Command {
        let mut all = vec![OsStr::new("exec")];
        all.extend(options.iter().map(OsStr::new));
        all.push(image.as_os_str());
        all.extend(words.iter().map(OsStr::new));
        self.coracle(&all)
    }
}

/// Asks a driver that it is linked to, opens another library, and says where its C++ library is from.
const ASK: &str = r#"
#include <cstdio>
#include <iostream>
#include <dlfcn.h>
extern "C" int cuInit(unsigned);
int main() {
    std::cout << "cuda " << cuInit(0) << std::endl;
    for (const char *name : {"libnvidia-ml.so.1", "libcuda.so", "libOpenCL.so.1"}) {
        void *handle = dlopen(name, RTLD_NOW);
        std::printf("%s %s\n", name, handle ? "opened" : dlerror());
    }
    void *cl = dlopen("libOpenCL.so.1", RTLD_NOW);
    std::printf("OpenCL of the %s\n", cl && dlsym(cl, "clMade") ? "host" : "image");
    for (void *place : {dlsym(RTLD_DEFAULT, "cuInit"), dlsym(RTLD_DEFAULT, "_ZNSolsEi")}) {
        Dl_info info = {};
        dladdr(place, &info);
        std::printf("from %s\n", info.dli_fname);
    }
}
"#;

fn asking_image() -> GlibcImage {
    let image = GlibcImage::new();
    let stub = coracle_tests::fixtures::temp_dir();
    let source = "int cuInit(unsigned flags) { return -1; }".to_owned();
    Library { source, ..Library::new("libcuda.so.1") }.make(&stub.path().join("libcuda.so"));
    image.compile("g++", "ask", ASK, &[&format!("-L{}", stub.path().display()), "-lcuda", "-ldl"]);
    Library::new("libOpenCL.so.1").make(&image.root().join("usr/lib/x86_64-linux-gnu/libOpenCL.so.1"));
    image
}

#[test]
fn root_a_program_finds_the_driver_and_keeps_its_own_libraries() {
    needs!(
        Coracle,
        Fuse,
        Root,
        Tool("gcc"),
        Tool("g++"),
        Tool("ldconfig"),
        Tool("busybox"),
        Tool("unshare"),
        Tool("setpriv")
    );
    let host = Dressed::new();
    let image = host.at("ask.sqfs");
    asking_image().pack(&image);
    let without = run(&mut host.exec(&[], &image, &["ask"]));
    assert!(!without.status.success() && without.stderr.contains("libcuda.so.1"), "{without:?}");
    let expected = format!(
        "cuda 42\nlibnvidia-ml.so.1 opened\nlibcuda.so opened\nlibOpenCL.so.1 opened\nOpenCL of the image\n\
         from {LIBRARIES}/libcuda.so.1\nfrom /lib/x86_64-linux-gnu/libstdc++.so.6\n"
    );
    // Into the session that the first launch made, into its container, and with a mount of its own; with the host's environment or
    // the image's, and where no variable says anything about libraries.
    for options in [
        ["--nv"].as_slice(),
        &["--nv"],
        &["--nv", "--no-session"],
        &["--nv", "--contain", "--cleanenv"],
        &["--gpu", "nvidia"],
        &["--gpu=auto"],
    ] {
        let asked = run(&mut host.exec(options, &image, &["ask"])).success();
        assert_eq!(asked.stdout, expected, "{options:?}: {}", asked.stderr);
        assert_eq!(asked.stderr, "", "{options:?}");
    }
    let cleared = run(&mut host.exec(&["--nv"], &image, &["env", "-i", "/usr/bin/ask"])).success();
    assert_eq!(cleared.stdout, expected);
    // The host's /dev is there anyway; a minimal one gets the nodes.
    let nodes =
        run(&mut host.exec(&["--nv", "--contain"], &image, &["cat", "/dev/nvidiactl", "/dev/nvidia0"])).success();
    assert_eq!(nodes.stdout, "nvidiactl\nnvidia0\n");
    run(&mut host.exec(&["--contain"], &image, &["cat", "/dev/nvidia0"])).exited(1);
    let shown = run(&mut host.exec(&["--nv"], &image, &["ls", LIBRARIES])).success().stdout;
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>(),
        ["libcuda.so", "libcuda.so.1", "libnvidia-ml.so", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"]
    );
    // One session and several choices: each container shows what it asked for, whatever others did.
    let list = format!("\"$0\" exec --nv $1 \"$2\" ls {LIBRARIES} {}", inject::HOST);
    let several =
        "for options in '' '--env NVIDIA_DRIVER_CAPABILITIES=utility' '' '--env NVIDIA_DRIVER_CAPABILITIES=compute'; do
        sh -c \"$1\" \"$0\" \"$options\" \"$2\" || exit; echo --; done; \"$0\" session list";
    let another = host.at("several.sqfs");
    fs::copy(&image, &another).unwrap();
    let mut command = host.wrapped("/bin/sh");
    command.arg("-c").arg(several).arg(coracle_binary().unwrap()).arg(list).arg(&another);
    command.env("CORACLE_SESSION_IDLE", "10");
    let several = run(&mut command).success().stdout;
    let choices: Vec<&str> = several.split("--\n").collect();
    let has = |choice: usize, name: &str| choices[choice].split_whitespace().any(|word| word == name);
    for (choice, compute, management) in [(0, true, true), (1, false, true), (2, true, true), (3, true, false)] {
        assert_eq!(has(choice, "libcuda.so.1"), compute, "{choice}: {several}");
        assert_eq!(has(choice, "libnvidia-ml.so.1"), management, "{choice}: {several}");
    }
    assert_eq!(choices[4].matches("several.sqfs").count(), 1, "{several}");
    // What the scheduler, the caller and the image say of GPUs and drivers counts.
    let hidden = ["--nv", "--contain", "--env", "NVIDIA_VISIBLE_DEVICES=none"];
    let hidden = run(&mut host.exec(&hidden, &image, &["ls", "/dev"])).success().stdout;
    assert!(hidden.contains("nvidiactl") && !hidden.contains("nvidia0"), "{hidden}");
    let absent =
        run(&mut host.exec(&["--nv", "--env", "NVIDIA_VISIBLE_DEVICES=7"], &image, &["ask"])).exited(125).stderr;
    assert!(absent.contains("NVIDIA_VISIBLE_DEVICES=7") && absent.contains("no such GPU"), "{absent}");
    let required = ["--nv", "--env", "NVIDIA_REQUIRE_CUDA=cuda>=99.0"];
    let required = run(&mut host.exec(&required, &image, &["ask"])).exited(125).stderr;
    assert!(required.contains("cuda>=99.0"), "{required}");
    let parts = ["--nv", "--env", "NVIDIA_DRIVER_CAPABILITIES=utility"];
    let parts = run(&mut host.exec(&parts, &image, &["ls", LIBRARIES])).success().stdout;
    assert_eq!(parts.split_whitespace().collect::<Vec<_>>(), ["libnvidia-ml.so", "libnvidia-ml.so.1"]);
    let off = run(&mut host.exec(&["--nv", "--gpu=off"], &image, &["ls", LIBRARIES]));
    assert!(!off.status.success(), "{off:?}");
}

#[test]
fn root_what_is_found_and_decided_is_explained() {
    needs!(
        Coracle,
        Fuse,
        Root,
        Tool("gcc"),
        Tool("g++"),
        Tool("ldconfig"),
        Tool("busybox"),
        Tool("unshare"),
        Tool("setpriv")
    );
    let host = Dressed::new();
    let image = host.at("ask.sqfs");
    asking_image().pack(&image);
    let words = |words: &[&str]| {
        let mut all = vec![OsStr::new("gpu"), OsStr::new("explain")];
        all.extend(words.iter().map(OsStr::new));
        all.push(image.as_os_str());
        run(&mut host.coracle(&all))
    };
    let text = words(&[]).success().stdout;
    for part in [
        "NVIDIA: driver 550.54.15",
        "AMD: no GPU that you can use",
        "The image has glibc 2.",
        "libcuda.so.1",
        "CUDA's driver interface",
        "the image's: the image has its own, /usr/lib/x86_64-linux-gnu/libOpenCL.so.1",
        "bound over it",
        "/dev/nvidiactl",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&words(&["--json", "--gpu=nvidia"]).success().stdout).unwrap();
    assert_eq!(json["drivers"][0]["driver_version"], VERSION);
    assert_eq!(json["drivers"][0]["devices"][0]["minor"], 0);
    assert_eq!(json["libraries"][0]["soname"], "libcuda.so.1");
    assert_eq!(json["libraries"][0]["verdict"], "host");
    // A driver that the image is too old for.
    let needing = Library::needing("libcuda.so.1", "libc.so.6", "GLIBC_9.99");
    host.library(&needing);
    host.cache();
    let refused = words(&[]).exited(125).stdout;
    assert!(refused.contains("error:") && refused.contains("GLIBC_9.99"), "{refused}");
    let launched = run(&mut host.exec(&["--nv"], &image, &["ask"])).exited(125);
    for part in ["libcuda.so.550.54.15", "GLIBC_9.99", "ends at GLIBC_2.", "--gpu=off"] {
        assert!(launched.stderr.contains(part), "{part}: {}", launched.stderr);
    }
    fs::write(host.at("driver/nvidia/version"), "NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  x\n")
        .unwrap();
    let mixed = run(&mut host.exec(&["--nv"], &image, &["ask"])).exited(125).stderr;
    assert!(mixed.contains("560.35.03") && mixed.contains(VERSION), "{mixed}");
}

#[test]
fn userns_a_driver_that_is_not_there_is_a_warning_or_an_error() {
    needs!(Coracle, Fuse);
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/kfd").exists() {
        return;
    }
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let image = coracle_tests::fixtures::corner_squashfs();
    let launch = |options: &[&str]| {
        let mut command = user.coracle(dir.path(), ["exec"]);
        run(command.args(options).arg(&image).arg("/bin/true"))
    };
    for (option, vendor) in [("--nv", "NVIDIA"), ("--rocm", "AMD"), ("--intel", "Intel")] {
        let warned = launch(&[option]).success().stderr;
        assert!(warned.contains(&format!("no {vendor} GPU")) && warned.contains("going on without"), "{warned}");
    }
    assert_eq!(launch(&["--gpu=auto"]).success().stderr, "");
    assert_eq!(launch(&["--nv", "--gpu=off"]).success().stderr, "");
    let refused = launch(&["--gpu=nvidia"]).exited(125).stderr;
    assert!(refused.contains("no NVIDIA GPU") && refused.contains("/dev/nvidiactl"), "{refused}");
    let unknown = launch(&["--gpu=all"]).exited(125).stderr;
    assert!(unknown.contains("--device"), "{unknown}");
}

#[test]
fn userns_configuration_and_variables_count_for_what_is_explained() {
    needs!(Coracle);
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/kfd").exists() || Path::new("/dev/dri").exists() {
        return;
    }
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let image = coracle_tests::fixtures::corner_squashfs();
    let explain = |variables: &[(&str, &str)]| {
        let mut command = user.coracle(dir.path(), ["gpu", "explain", "--json"]);
        run(command.env("HOME", dir.path()).envs(variables.iter().copied()).arg(&image))
    };
    let part = |name: &str, variables: &[(&str, &str)]| {
        let explained = explain(variables);
        let json: serde_json::Value = serde_json::from_str(&explained.stdout).expect(&explained.stderr);
        json[name].to_string()
    };
    assert_eq!(part("absent", &[]), r#"["nvidia","amd","intel"]"#);
    assert_eq!(part("absent", &[("CORACLE_GPU", "amd")]), r#"["amd"]"#);
    let wrong = explain(&[("CORACLE_GPU", "none")]).exited(125).stderr;
    assert!(wrong.contains("none") && wrong.contains("auto, off, nvidia"), "{wrong}");
    let file = dir.path().join(".config/coracle/coracle.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "[environment]\nset = { NVIDIA_DRIVER_CAPABILITIES = \"utility\" }\n").unwrap();
    assert_eq!(part("capabilities", &[]), r#"["utility"]"#);
}

#[test]
fn root_a_cdi_file_is_made_of_what_is_found() {
    needs!(Coracle, Root, Tool("gcc"), Tool("ldconfig"), Tool("unshare"), Tool("setpriv"));
    let host = Dressed::new();
    let words = ["cdi", "generate"].map(OsStr::new);
    let file: serde_json::Value = serde_json::from_str(&run(&mut host.coracle(&words)).success().stdout).unwrap();
    assert_eq!(file["kind"], "nvidia.com/gpu");
    let names: Vec<_> = file["devices"].as_array().unwrap().iter().map(|device| device["name"].clone()).collect();
    assert_eq!(names, ["0", "all"]);
    let text = file.to_string();
    assert!(
        text.contains("libcuda.so.550.54.15") && text.contains("/dev/nvidiactl") && !text.contains("libOpenCL"),
        "{text}"
    );
}
