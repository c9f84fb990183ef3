//! Made-up trees of hosts with a GPU driver: real libraries with chosen names and needs, made by the compiler, and loader
//! caches made by the real `ldconfig`, as Debian, RHEL, SUSE, Ubuntu, WSL and Jetson boards have them.

use crate::needs::find_tool;
use crate::process::run;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a host is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Directories by architecture, and alternatives between several drivers.
    Debian,
    /// Directories by architecture.
    Ubuntu,
    /// `/usr/lib64`, with `/lib64` a link to it.
    Rhel,
    /// The same, with 32-bit libraries in `/usr/lib`.
    Suse,
    /// Windows' driver.
    Wsl,
    /// A board with a driver of its own.
    Jetson,
}

impl Layout {
    /// Those with a kernel module.
    pub const NATIVE: [Self; 4] = [Self::Debian, Self::Ubuntu, Self::Rhel, Self::Suse];

    /// Where libraries are.
    #[must_use]
    pub fn libraries(self) -> &'static str {
        match self {
            Self::Debian => "/usr/lib/x86_64-linux-gnu/nvidia/current",
            Self::Ubuntu => "/usr/lib/x86_64-linux-gnu",
            Self::Rhel | Self::Suse => "/usr/lib64",
            Self::Wsl => "/usr/lib/wsl/lib",
            Self::Jetson => "/usr/lib/aarch64-linux-gnu/tegra",
        }
    }
}

/// A library to be made.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// The name by which it is needed.
    pub soname: String,
    /// A version that it needs, and of which library: `libc.so.6` and `GLIBC_9.99`.
    pub needs: Option<(String, String)>,
    /// C source of what else is in it.
    pub source: String,
    /// For 32-bit programs.
    pub narrow: bool,
}

impl Library {
    /// One with nothing in it.
    #[must_use]
    pub fn new(soname: &str) -> Self {
        Self { soname: soname.to_owned(), ..Self::default() }
    }

    /// One that needs a version of another library.
    #[must_use]
    pub fn needing(soname: &str, library: &str, version: &str) -> Self {
        Self { needs: Some((library.to_owned(), version.to_owned())), ..Self::new(soname) }
    }

    /// Makes it.
    ///
    /// # Panics
    /// When the compiler fails.
    pub fn make(&self, file: &Path) {
        let dir = tempfile::tempdir().unwrap();
        let mut source = self.source.clone();
        let mut command = Command::new(find_tool("gcc").expect("gcc"));
        command.current_dir(dir.path()).args(["-shared", "-fPIC", "-nostdlib", "-O1"]);
        if self.narrow {
            command.arg("-m32");
        }
        command.arg(format!("-Wl,-soname,{}", self.soname)).arg("-o").arg(file).arg("it.c");
        if let Some((library, version)) = &self.needs {
            stub(dir.path(), library, version);
            source.push_str("\nextern int from_another(void);\nint uses_it(void) { return from_another(); }\n");
            command.arg(format!("./{library}"));
        }
        fs::write(dir.path().join("it.c"), source + "\nint of_the_driver(void) { return 550; }\n").unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        run(&mut command).success();
    }
}

/// A library that defines one version, to be linked to.
fn stub(dir: &Path, library: &str, version: &str) {
    fs::write(dir.join("stub.c"), "int from_another(void) { return 1; }\n").unwrap();
    fs::write(dir.join("stub.map"), format!("{version} {{ global: from_another; }};\n")).unwrap();
    let mut command = Command::new(find_tool("gcc").expect("gcc"));
    command.current_dir(dir).args(["-shared", "-fPIC", "-nostdlib", "-Wl,--version-script,stub.map"]);
    run(command.arg(format!("-Wl,-soname,{library}")).args(["-o", library, "stub.c"])).success();
}

/// A tree in a directory of its own, removed at the end.
#[derive(Debug)]
pub struct GpuTree {
    dir: tempfile::TempDir,
    layout: Layout,
}

impl GpuTree {
    /// A host without a driver.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let tree = Self { dir: crate::fixtures::temp_dir(), layout };
        for directory in ["etc/ld.so.conf.d", "usr/bin", "usr/lib", "usr/lib64", "proc", "dev", "sys", "run", "tmp"] {
            fs::create_dir_all(tree.root().join(directory)).unwrap();
        }
        for name in ["lib", "lib64", "bin"] {
            symlink(format!("usr/{name}"), tree.root().join(name)).unwrap();
        }
        tree.write("/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n");
        let directories = match layout {
            Layout::Debian | Layout::Ubuntu => "/usr/local/lib\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
            Layout::Rhel | Layout::Suse => "/usr/local/lib\n/lib64\n/usr/lib64\n",
            Layout::Wsl => "/lib/x86_64-linux-gnu\n/usr/lib/wsl/lib\n",
            Layout::Jetson => "/lib/aarch64-linux-gnu\n/usr/lib/aarch64-linux-gnu/tegra\n",
        };
        tree.write("/etc/ld.so.conf.d/host.conf", directories);
        tree
    }

    /// A host with NVIDIA's driver of a version.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn nvidia(layout: Layout, version: &str) -> Self {
        let tree = Self::new(layout);
        match layout {
            Layout::Wsl => tree.wsl(),
            Layout::Jetson => tree.jetson(),
            _ => tree.native(version),
        }
        tree.ldconfig();
        tree
    }

    /// The directory that stands for `/`.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Where something of the tree is.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Writes a file, with its directories.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: &str) {
        let file = self.at(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    /// A file that stands for a device node.
    pub fn node(&self, path: &str) {
        self.write(path, "");
    }

    /// A file that can be executed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn program(&self, path: &str) {
        self.write(path, "#!/bin/sh\necho \"the driver's $0\"\n");
        fs::set_permissions(self.at(path), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// A symbolic link, with its directories.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn link(&self, path: &str, target: &str) {
        let file = self.at(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&file);
        symlink(target, file).unwrap();
    }

    /// A library of the driver, under a file name of its own, with the links that the layout has.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn library(&self, library: &Library, file_name: &str) {
        let directory = if library.narrow { "/usr/lib" } else { self.layout.libraries() };
        library.make(&self.at(&format!("{directory}/{file_name}")));
        if file_name == library.soname {
            return;
        }
        let soname = &library.soname;
        if self.layout == Layout::Debian && !library.narrow {
            let alternative = format!("/etc/alternatives/glx--{soname}-x86_64-linux-gnu");
            self.link(&alternative, &format!("{directory}/{file_name}"));
            self.link(&format!("/usr/lib/x86_64-linux-gnu/{soname}"), &alternative);
        } else {
            self.link(&format!("{directory}/{soname}"), file_name);
        }
    }

    /// Makes the loader's cache.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn ldconfig(&self) {
        self.ldconfig_format("new");
    }

    /// Makes the loader's cache in a format: `old`, `compat` or `new`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn ldconfig_format(&self, format: &str) {
        ldconfig(self.root(), format);
    }

    /// The kernel module.
    pub fn module(&self, version: &str) {
        let text = format!(
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (dvs@host)\nGCC version:  gcc 12\n"
        );
        self.write("/proc/driver/nvidia/version", &text);
    }

    /// A GPU that NVIDIA's module drives.
    pub fn gpu(&self, minor: u32, model: &str) {
        let pci = format!("0000:{:02x}:00.0", minor + 7);
        let text = format!(
            "Model: \t\t {model}\nIRQ:   \t\t 44\nGPU UUID: \t GPU-00000000-0000-0000-0000-{minor:012}\nBus Type: \t PCIe\n\
             Bus Location: \t {pci}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
        );
        self.write(&format!("/proc/driver/nvidia/gpus/{pci}/information"), &text);
        self.node(&format!("/dev/nvidia{minor}"));
        self.drm(128 + minor, "0x10de", &pci);
    }

    /// A render node.
    pub fn drm(&self, minor: u32, vendor: &str, pci: &str) {
        self.node(&format!("/dev/dri/renderD{minor}"));
        let about = format!("/sys/class/drm/renderD{minor}/device");
        self.write(&format!("{about}/vendor"), &format!("{vendor}\n"));
        self.write(&format!("{about}/uevent"), &format!("DRIVER=x\nPCI_SLOT_NAME={pci}\n"));
    }

    /// An instance of a divided GPU, whose nodes have these numbers.
    pub fn mig(&self, gpu: u32, instance: u32, compute: u32, nodes: [u32; 2]) {
        let base = format!("/proc/driver/nvidia/capabilities/gpu{gpu}/mig/gi{instance}");
        for (path, minor) in [(format!("{base}/access"), nodes[0]), (format!("{base}/ci{compute}/access"), nodes[1])] {
            self.capability(&path, minor);
        }
    }

    /// A capability of the driver and its node.
    pub fn capability(&self, path: &str, minor: u32) {
        self.write(path, &format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"));
        self.node(&format!("/dev/nvidia-caps/nvidia-cap{minor}"));
    }

    /// A usual driver.
    fn native(&self, version: &str) {
        self.module(version);
        self.gpu(0, "NVIDIA A100-SXM4-40GB");
        for node in ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"] {
            self.node(&format!("/dev/{node}"));
        }
        for soname in ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libGLX_nvidia.so.0"] {
            let stem = soname.split(".so").next().unwrap();
            self.library(&Library::new(soname), &format!("{stem}.so.{version}"));
        }
        let versioned = format!("libnvidia-glcore.so.{version}");
        self.library(&Library::new(&versioned), &versioned);
        self.library(&Library::new("libnvidia-egl-gbm.so.1"), "libnvidia-egl-gbm.so.1.1.1");
        self.library(&Library::new("libOpenCL.so.1"), "libOpenCL.so.1.0.0");
        self.program("/usr/bin/nvidia-smi");
        self.program("/usr/bin/nvidia-cuda-mps-control");
        self.node(&format!("/lib/firmware/nvidia/{version}/gsp_ga10x.bin"));
        self.node("/run/nvidia-persistenced/socket");
        self.write("/etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n");
        self.write("/usr/share/vulkan/icd.d/nvidia_icd.json", "{}\n");
    }

    fn wsl(&self) {
        self.node("/dev/dxg");
        let drivers = "/usr/lib/wsl/drivers/nv_dispi.inf_amd64_0123456789abcdef";
        Library::new("libcuda.so.1").make(&self.at(&format!("{drivers}/libcuda.so.1.1")));
        self.write(&format!("{drivers}/nvcubins.bin"), "");
        self.write("/usr/lib/wsl/drivers/other.inf_amd64_0/readme", "");
        for (soname, file) in [
            ("libcuda.so.1", "libcuda.so.1.1"),
            ("libnvidia-ml.so.1", "libnvidia-ml.so.1"),
            ("libdxcore.so", "libdxcore.so"),
        ] {
            self.library(&Library::new(soname), file);
        }
        self.program("/usr/lib/wsl/lib/nvidia-smi");
    }

    /// The libraries are for this machine, though a board's are for another, so that they can be looked for as for its own.
    fn jetson(&self) {
        self.write("/etc/nv_tegra_release", "# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref, EABI: aarch64\n");
        let lists = "/etc/nvidia-container-runtime/host-files-for-container.d";
        let mut list = String::from("# what a container gets\n");
        for (soname, file) in [("libcuda.so.1", "libcuda.so.1.1"), ("libnvrm_gpu.so", "libnvrm_gpu.so")] {
            self.library(&Library::new(soname), file);
            writeln!(list, "lib, {}/{file}", self.layout.libraries()).unwrap();
        }
        writeln!(list, "sym, {}/libcuda.so.1", self.layout.libraries()).unwrap();
        writeln!(list, "dir, /lib/firmware/tegra23x").unwrap();
        writeln!(list, "lib, {}/libgone.so", self.layout.libraries()).unwrap();
        self.write("/lib/firmware/tegra23x/fw.bin", "");
        self.write(&format!("{lists}/l4t.csv"), &list);
        self.write(&format!("{lists}/devices.csv"), "dev, /dev/nvhost-gpu\ndev, /dev/nvmap\n");
        self.node("/dev/nvhost-gpu");
        self.node("/dev/nvmap");
    }
}

/// Makes a tree's loader cache.
///
/// # Panics
/// When it cannot be made.
pub fn ldconfig(root: &Path, format: &str) {
    let mut command = Command::new(find_tool("ldconfig").expect("ldconfig"));
    run(command.args(["-c", format, "-r"]).arg(root)).success();
}

/// A tree for an image that has glibc: this host's C and C++ libraries, a static busybox, and the programs that are added.
#[derive(Debug)]
pub struct GlibcImage {
    dir: tempfile::TempDir,
}

impl GlibcImage {
    /// With nothing but that.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let image = Self { dir: crate::fixtures::temp_dir() };
        for directory in ["usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "etc/ld.so.conf.d"] {
            fs::create_dir_all(image.root().join(directory)).unwrap();
        }
        for name in ["lib", "lib64", "bin"] {
            symlink(format!("usr/{name}"), image.root().join(name)).unwrap();
        }
        fs::write(image.root().join("etc/ld.so.conf"), "/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n").unwrap();
        for name in ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libgcc_s.so.1", "libstdc++.so.6"] {
            let library = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64"]
                .iter()
                .map(|directory| Path::new(directory).join(name))
                .find(|path| path.exists());
            let library = library.unwrap_or_else(|| panic!("this host has no {name}"));
            fs::copy(library, image.root().join("usr/lib/x86_64-linux-gnu").join(name)).unwrap();
        }
        fs::copy("/lib64/ld-linux-x86-64.so.2", image.root().join("usr/lib64/ld-linux-x86-64.so.2")).unwrap();
        let busybox = find_tool("busybox").expect("busybox");
        fs::copy(busybox, image.root().join("usr/bin/busybox")).unwrap();
        for name in ["sh", "ls", "cat", "env"] {
            symlink("busybox", image.root().join("usr/bin").join(name)).unwrap();
        }
        image
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Compiles a program into `/usr/bin`.
    ///
    /// # Panics
    /// When the compiler fails.
    pub fn compile(&self, compiler: &str, name: &str, source: &str, words: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(if compiler == "g++" { "it.cc" } else { "it.c" });
        fs::write(&file, source).unwrap();
        let mut command = Command::new(find_tool(compiler).expect("a compiler"));
        command.arg("-o").arg(self.root().join("usr/bin").join(name)).arg(file).args(words);
        run(&mut command).success();
    }

    /// Packs it with the program under test, after its own `ldconfig`.
    ///
    /// # Panics
    /// When that fails.
    pub fn pack(&self, file: &Path) {
        ldconfig(self.root(), "new");
        let mut command = crate::process::coracle(["build"]);
        run(command.arg(file).arg(format!("dir:{}", self.root().display()))).success();
        fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    }
}

impl Default for GlibcImage {
    fn default() -> Self {
        Self::new()
    }
}
