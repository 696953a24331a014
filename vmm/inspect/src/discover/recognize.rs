//! Which kernel it is.

use super::Basis;
use super::start::Start;
use crate::profile::{self, Kernel, Profile, Recognized};
use crate::target::Target;

/// What the kernel is known to do, and what tells so: the user, who recorded it, or its own memory.
pub(super) fn recognize(
    target: &Target,
    start: &Start,
    given: Option<Profile>,
) -> (Profile, Recognized) {
    let by = |profile: Profile, evidence: &str| {
        let name = profile.name;
        let evidence = evidence.to_owned();
        (profile, Recognized { name, evidence })
    };
    if let Some(profile) = given {
        return by(profile, "the user says so");
    }
    if start.basis == Basis::Given {
        return by(Profile::heirloom(), "a recording of it");
    }
    let found = start.reference.as_ref().zip(start.snapshot.as_ref());
    let found = found.and_then(|(reference, snapshot)| {
        let mut roots = snapshot.roots().iter();
        let root = roots.find(|root| root.address == reference.pfn.base())?;
        let kernel = Kernel {
            memory: &*target.memory,
            snapshot,
            root: root.id,
            part: &reference.part,
            ram: &target.ram,
        };
        profile::recognize(Profile::built_in(), &kernel)
    });
    if let (None, Some(release)) = (&found, target.linux_release()) {
        return by(Profile::linux(), &format!("Linux {release} by VMCOREINFO"));
    }
    found.unwrap_or_else(|| {
        let generic = Profile::generic();
        let nothing = Recognized::nothing(generic.name);
        (generic, nothing)
    })
}
