//! Options of Apptainer's whose effect a launch has without being asked: taken, so that scripts go on working, and not
//! listed in the help.

use clap::Args;

#[doc = concat!("Options that change nothing, because what they ask for is always so.")]
#[derive(Debug, Default, Args)]
pub struct Accepted {
    /// Do not have a shell evaluate variables and the image's command: that is never done
    #[arg(long, hide = true)]
    pub no_eval: bool,
    /// Show mount points that the image lacks without an overlay: that is always done
    #[arg(long, hide = true)]
    pub underlay: bool,
    /// Run images without the kernel's or a helper's squashfs: they are always read by coracle itself
    #[arg(long, hide = true)]
    pub unsquash: bool,
    /// Share the image's mount and the user namespace between launches: sessions do that
    #[arg(long, hide = true, conflicts_with = "no_session")]
    pub sharens: bool,
    /// Do not use the fakeroot command: it is never used
    #[arg(long, hide = true)]
    pub ignore_fakeroot_command: bool,
}
