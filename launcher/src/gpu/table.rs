//! What a GPU driver consists of outside the kernel, as data: each entry with the reason for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who makes the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// NVIDIA
    Nvidia,
    /// AMD
    Amd,
    /// Intel
    Intel,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nvidia, Self::Amd, Self::Intel];

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "NVIDIA",
            Self::Amd => "AMD",
            Self::Intel => "Intel",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a part of a driver is for, by the words of `NVIDIA_DRIVER_CAPABILITIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// CUDA, OpenCL, Level Zero.
    Compute,
    /// `nvidia-smi` and the library for management.
    Utility,
    /// Encoding and decoding video.
    Video,
    /// OpenGL, Vulkan, OptiX.
    Graphics,
    /// An X server.
    Display,
    /// Neural graphics.
    Ngx,
    /// The same for 32-bit programs.
    Compat32,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Compute, Self::Utility, Self::Video, Self::Graphics, Self::Display, Self::Ngx, Self::Compat32];

    /// As `NVIDIA_DRIVER_CAPABILITIES` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Utility => "utility",
            Self::Video => "video",
            Self::Graphics => "graphics",
            Self::Display => "display",
            Self::Ngx => "ngx",
            Self::Compat32 => "compat32",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.name() == name)
    }
}

/// Whose library a container gets when both host and image have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// The host's: another than the kernel module's own does not work, or works with nothing else of the driver.
    Host,
    /// The image's: any works with any driver, and the program was built with that one.
    Image,
}

/// A library of a driver.
#[derive(Debug)]
pub struct Library {
    /// Its name without a version, `libcuda.so`; the name by which it is needed may have one behind a dot.
    pub stem: &'static str,
    /// What it is for.
    pub capability: Capability,
    /// Whose counts.
    pub whose: Whose,
    /// Those of one group belong together: the host's are used only when the image has none of them.
    pub group: Option<&'static str>,
    /// Whether the file's name ends in the driver's version, which must be the kernel module's.
    pub versioned: bool,
    /// Whether it is an error when it cannot work in the container; others are left out, with a warning.
    pub essential: bool,
    /// Names by which programs look for it besides the one it says.
    pub also: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

const fn driver(stem: &'static str, capability: Capability, reason: &'static str) -> Library {
    Library { stem, capability, whose: Whose::Host, group: None, versioned: true, essential: false, also: &[], reason }
}

const fn essential(stem: &'static str, capability: Capability, reason: &'static str) -> Library {
    Library { essential: true, ..driver(stem, capability, reason) }
}

/// With a version of its own.
const fn unversioned(stem: &'static str, capability: Capability, reason: &'static str) -> Library {
    Library { versioned: false, ..driver(stem, capability, reason) }
}

const fn generic(stem: &'static str, capability: Capability, group: &'static str, reason: &'static str) -> Library {
    Library { whose: Whose::Image, group: Some(group), versioned: false, ..driver(stem, capability, reason) }
}

use Capability::{Compute, Display, Graphics, Ngx, Utility, Video};

/// The group of libraries that send calls of OpenGL to the vendor's.
pub const GL_DISPATCHER: &str = "OpenGL dispatcher";

/// NVIDIA's libraries.
pub const NVIDIA_LIBRARIES: &[Library] = &[
    // Programs that link to the stub of the toolkit, or open it by hand, use the name without a version.
    Library {
        also: &["libcuda.so"],
        ..essential("libcuda.so", Compute, "CUDA's driver interface; speaks to the kernel module")
    },
    essential("libnvidia-ptxjitcompiler.so", Compute, "compiles PTX for this GPU; opened by libcuda"),
    driver("libnvidia-nvvm.so", Compute, "optimises at link time; opened by libcuda"),
    driver("libnvidia-nvvm70.so", Compute, "as libnvidia-nvvm, for programs of older toolkits"),
    driver("libnvidia-gpucomp.so", Compute, "compiler that CUDA, OpenCL and Vulkan share since 525"),
    driver("libcudadebugger.so", Compute, "back end of cuda-gdb"),
    driver("libnvidia-fatbinaryloader.so", Compute, "loads device code; opened by libcuda until 440"),
    driver("libnvidia-compiler.so", Compute, "compiler of OpenCL until 515"),
    driver("libnvidia-opencl.so", Compute, "NVIDIA's OpenCL, which the OpenCL loader opens"),
    driver("libnvidia-allocator.so", Compute, "memory that devices and processes share"),
    driver("libnvidia-pkcs11.so", Compute, "encrypts what goes to a confidential GPU, with OpenSSL 1.1"),
    driver("libnvidia-pkcs11-openssl3.so", Compute, "the same, with OpenSSL 3"),
    generic("libOpenCL.so", Compute, "OpenCL loader", "opens the OpenCL of any vendor"),
    Library {
        also: &["libnvidia-ml.so"],
        ..essential("libnvidia-ml.so", Utility, "management; what nvidia-smi and frameworks ask for GPUs")
    },
    driver("libnvidia-cfg.so", Utility, "configuration; opened by nvidia-smi and X"),
    driver("libnvidia-sandboxutils.so", Utility, "management from within containers"),
    driver("libnvcuvid.so", Video, "decodes video"),
    driver("libnvidia-encode.so", Video, "encodes video"),
    driver("libnvidia-opticalflow.so", Video, "optical flow between pictures"),
    driver("libvdpau_nvidia.so", Video, "NVIDIA's part of VDPAU"),
    driver("libGLX_nvidia.so", Graphics, "OpenGL on X and Vulkan, which the dispatchers open"),
    driver("libEGL_nvidia.so", Graphics, "OpenGL without a display, which the dispatcher opens"),
    driver("libGLESv2_nvidia.so", Graphics, "OpenGL ES 2 and 3, which the dispatcher opens"),
    driver("libGLESv1_CM_nvidia.so", Graphics, "OpenGL ES 1, which the dispatcher opens"),
    driver("libnvidia-glcore.so", Graphics, "core of OpenGL and Vulkan"),
    driver("libnvidia-eglcore.so", Graphics, "core of EGL"),
    driver("libnvidia-glsi.so", Graphics, "what OpenGL and EGL share"),
    driver("libnvidia-tls.so", Graphics, "variables of a thread, for OpenGL"),
    driver("libnvidia-glvkspirv.so", Graphics, "compiles SPIR-V for Vulkan"),
    driver("libnvidia-rtcore.so", Graphics, "ray tracing; opened by OptiX and Vulkan"),
    driver("libnvoptix.so", Graphics, "OptiX"),
    driver("libnvidia-fbc.so", Graphics, "reads what is on the screen"),
    driver("libnvidia-ifr.so", Graphics, "reads what a program draws, until 465"),
    driver("libnvidia-cbl.so", Graphics, "ray tracing of Vulkan until 465"),
    driver("libnvidia-present.so", Graphics, "puts pictures onto a screen"),
    unversioned("libnvidia-api.so", Graphics, "NVAPI, for programs that Wine or Proton runs"),
    unversioned("libnvidia-egl-wayland.so", Graphics, "EGL on Wayland, by EGLStreams"),
    unversioned("libnvidia-egl-wayland2.so", Graphics, "EGL on Wayland, by shared buffers"),
    unversioned("libnvidia-egl-gbm.so", Graphics, "EGL on a device without a display server"),
    unversioned("libnvidia-egl-xcb.so", Graphics, "EGL on X"),
    unversioned("libnvidia-egl-xlib.so", Graphics, "EGL on X"),
    driver("libnvidia-vulkan-producer.so", Graphics, "Vulkan on Wayland"),
    driver("libnvidia-vksc-core.so", Graphics, "Vulkan for systems that must be safe"),
    generic("libGLdispatch.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    generic("libGL.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    generic("libGLX.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    generic("libOpenGL.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    generic("libEGL.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    generic("libGLESv2.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    generic("libGLESv1_CM.so", Graphics, GL_DISPATCHER, "sends a call to the vendor's OpenGL"),
    driver("libnvidia-ngx.so", Ngx, "neural graphics"),
    // Windows Subsystem for Linux: the device is Windows', and these speak to it.
    unversioned("libdxcore.so", Compute, "speaks to /dev/dxg; opened by libcuda under WSL"),
    unversioned("libd3d12.so", Graphics, "Direct3D 12, on which OpenGL runs under WSL"),
    unversioned("libd3d12core.so", Graphics, "the same"),
];

/// Intel's libraries. They are of the user's side alone and work with any kernel that knows the GPU, so an image that has its
/// own uses them.
pub const INTEL_LIBRARIES: &[Library] = &[
    generic("libze_loader.so", Compute, "Level Zero loader", "opens the Level Zero driver"),
    generic("libze_intel_gpu.so", Compute, "Intel compute runtime", "Level Zero on Intel's GPUs"),
    generic("libigdgmm.so", Compute, "Intel compute runtime", "memory of the GPU"),
    generic("libigc.so", Compute, "Intel compute runtime", "compiles for the GPU"),
    generic("libigdfcl.so", Compute, "Intel compute runtime", "front end of that compiler"),
    generic("libiga64.so", Compute, "Intel compute runtime", "assembler of that compiler"),
    generic("libopencl-clang.so", Compute, "Intel compute runtime", "front end of that compiler"),
    generic("libOpenCL.so", Compute, "OpenCL loader", "opens the OpenCL of any vendor"),
];

/// AMD's libraries: none. ROCm's user side works with any kernel that has its interface, comes with the image, and would
/// bring half a distribution along if it were the host's.
pub const AMD_LIBRARIES: &[Library] = &[];

/// ROCm's first library, by which an image that has its own is known.
pub const AMD_RUNTIME: &str = "libhsa-runtime64.so";

/// A program of a driver.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub capability: Capability,
    /// Why.
    pub reason: &'static str,
}

const fn utility(name: &'static str, capability: Capability, reason: &'static str) -> Program {
    Program { name, capability, reason }
}

/// NVIDIA's programs.
pub const NVIDIA_UTILITIES: &[Program] = &[
    utility("nvidia-smi", Utility, "lists GPUs, and what runs on them"),
    utility("nvidia-debugdump", Utility, "for reports of errors"),
    utility("nvidia-persistenced", Utility, "keeps GPUs initialised"),
    utility("nv-fabricmanager", Utility, "manages NVSwitch"),
    utility("nvidia-imex", Utility, "shares memory between nodes over NVLink"),
    utility("nvidia-imex-ctl", Utility, "controls that"),
    utility("nvidia-cuda-mps-control", Compute, "starts and stops the service that lets processes share a GPU"),
    utility("nvidia-cuda-mps-server", Compute, "that service"),
];

/// What kind of thing a path of the host is to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A program.
    Utility,
    /// Code for the GPU's own processors.
    Firmware,
    /// Of a service: a socket, or the directory of sockets.
    Socket,
    /// A file that says to others where the driver is, or changes what it does.
    Configuration,
    /// A directory of the driver's own.
    Directory,
    /// Part of a driver that is looked for by its path.
    Module,
}

/// A file of a driver that is found by its path.
#[derive(Debug)]
pub struct File {
    /// Absolute; `{version}` is the driver's, a `*` in the last component stands for any letters, and `{lib}` is each directory of
    /// libraries. All that is found is used.
    pub path: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is for.
    pub capability: Capability,
    /// Why.
    pub reason: &'static str,
}

const fn file(path: &'static str, kind: Kind, capability: Capability, reason: &'static str) -> File {
    File { path, kind, capability, reason }
}

/// NVIDIA's files.
pub const NVIDIA_FILES: &[File] = &[
    // Kernels before 5.10 look for it in the tree of the process that opened the device.
    file("/lib/firmware/nvidia/{version}/gsp*.bin", Kind::Firmware, Compute, "runs the GPU's own processor"),
    file("/run/nvidia-persistenced/socket", Kind::Socket, Utility, "asks the service that keeps GPUs initialised"),
    file("/run/nvidia-fabricmanager/socket", Kind::Socket, Utility, "asks the service that manages NVSwitch"),
    file("/etc/OpenCL/vendors/nvidia.icd", Kind::Configuration, Compute, "tells the OpenCL loader of NVIDIA's"),
    file("/etc/vulkan/icd.d/nvidia_icd*.json", Kind::Configuration, Graphics, "tells the Vulkan loader of NVIDIA's"),
    file(
        "/usr/share/vulkan/icd.d/nvidia_icd*.json",
        Kind::Configuration,
        Graphics,
        "tells the Vulkan loader of NVIDIA's",
    ),
    file(
        "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
        Kind::Configuration,
        Graphics,
        "lets Vulkan choose between GPUs",
    ),
    file(
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        Kind::Configuration,
        Graphics,
        "tells the EGL dispatcher of NVIDIA's",
    ),
    file(
        "/usr/share/egl/egl_external_platform.d/*nvidia*.json",
        Kind::Configuration,
        Graphics,
        "tells EGL of the ways to a display",
    ),
    file("/usr/share/nvidia/nvoptix.bin", Kind::Configuration, Graphics, "weights of OptiX's denoiser"),
    file(
        "/usr/share/nvidia/nvidia-application-profiles-{version}-rc",
        Kind::Configuration,
        Graphics,
        "settings for certain programs",
    ),
    file("{lib}/gbm/nvidia-drm_gbm.so", Kind::Module, Graphics, "buffers without a display server; opened by its path"),
    file("{lib}/vdpau/libvdpau_nvidia.so.1", Kind::Module, Video, "NVIDIA's part of VDPAU; opened by its path"),
    file("/usr/lib/xorg/modules/drivers/nvidia_drv.so", Kind::Module, Display, "driver of an X server"),
    file("/usr/lib64/xorg/modules/drivers/nvidia_drv.so", Kind::Module, Display, "driver of an X server"),
    file("/usr/lib/xorg/modules/extensions/libglxserver_nvidia.so", Kind::Module, Display, "OpenGL of an X server"),
    file("/usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so", Kind::Module, Display, "OpenGL of an X server"),
];

/// Intel's files, which go with [`INTEL_RUNTIME`].
pub const INTEL_FILES: &[File] = &[
    file("/etc/OpenCL/vendors/intel.icd", Kind::Configuration, Compute, "tells the OpenCL loader of Intel's"),
    file("{lib}/intel-opencl/libigdrcl.so", Kind::Module, Compute, "OpenCL on Intel's GPUs; opened by its path"),
];

/// The group of Intel's libraries that its files go with.
pub const INTEL_RUNTIME: &str = "Intel compute runtime";

/// A device node that is not one GPU's.
#[derive(Debug)]
pub struct Node {
    /// Absolute; a `#` at its end stands for a number.
    pub path: &'static str,
    /// What it is for.
    pub capability: Capability,
    /// Why.
    pub reason: &'static str,
}

const fn node(path: &'static str, capability: Capability, reason: &'static str) -> Node {
    Node { path, capability, reason }
}

/// NVIDIA's nodes.
pub const NVIDIA_NODES: &[Node] = &[
    node("/dev/nvidiactl", Utility, "the driver as a whole"),
    node("/dev/nvidia-uvm", Compute, "memory that host and GPU share"),
    node("/dev/nvidia-uvm-tools", Compute, "watching that memory, for profilers"),
    node("/dev/nvidia-modeset", Graphics, "screens; also what Vulkan and EGL wait on"),
    node("/dev/nvidia-nvswitchctl", Utility, "NVSwitch as a whole"),
    node("/dev/nvidia-nvswitch#", Utility, "an NVSwitch"),
    node("/dev/nvidia-nvlink", Utility, "NVLink"),
    node("/dev/nvidia-caps-imex-channels/channel#", Compute, "memory of other nodes' GPUs over NVLink"),
    node("/dev/nvidia-fs#", Compute, "GPUDirect Storage: files straight into the GPU's memory"),
    node("/dev/gdrdrv", Compute, "GDRCopy: the processor copies into the GPU's memory"),
];

/// What WSL has instead.
pub const WSL_NODES: &[Node] = &[node("/dev/dxg", Compute, "the GPU, which is Windows'")];

/// AMD's nodes.
pub const AMD_NODES: &[Node] = &[node("/dev/kfd", Compute, "ROCm's interface of the kernel, for all GPUs")];

/// Directories of libraries that no cache lists, on systems without one and on those that keep the driver apart.
pub const LIBRARY_DIRECTORIES: &[&str] = &[
    "/run/opengl-driver/lib",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib64/nvidia",
    "/usr/lib/nvidia",
    "/opt/intel/lib",
];
/// WSL's libraries.
pub const WSL_LIBRARIES: &str = "/usr/lib/wsl/lib";
/// WSL's drivers, each in a directory that Windows names.
pub const WSL_DRIVERS: &str = "/usr/lib/wsl/drivers";
/// Lists of what a Jetson's driver consists of: lines of `lib|sym|dir|dev, PATH`.
pub const TEGRA_LISTS: &str = "/etc/nvidia-container-runtime/host-files-for-container.d";
/// A Jetson's libraries, of JetPack up to 5 and from 6 on.
pub const TEGRA_LIBRARIES: &[&str] = &["/usr/lib/aarch64-linux-gnu/tegra", "/usr/lib/aarch64-linux-gnu/nvidia"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_stands_alone() {
        for table in [NVIDIA_LIBRARIES, INTEL_LIBRARIES] {
            for (index, row) in table.iter().enumerate() {
                assert!(row.stem.ends_with(".so") && !row.reason.is_empty(), "{}", row.stem);
                assert!(table[index + 1..].iter().all(|other| other.stem != row.stem), "{}", row.stem);
                assert_eq!(row.group.is_some(), row.whose == Whose::Image, "{}", row.stem);
                assert!(!(row.essential && row.whose == Whose::Image), "{}", row.stem);
            }
        }
        assert!(NVIDIA_NODES.iter().all(|node| node.path.starts_with("/dev/")));
    }

    #[test]
    fn capabilities_have_nvidias_names() {
        for capability in Capability::ALL {
            assert_eq!(Capability::from_name(capability.name()), Some(capability));
        }
        assert_eq!(Capability::from_name("all"), None);
    }
}
