//! Hosts with some GPUs, and people who say which to use.

use super::*;

/// As many GPUs.
fn gpus(number: u32) -> Vec<Gpu> {
    let gpu = |index| Gpu { index, uuid: Some(format!("GPU-{index}{index}aa-1")), reachable: true, ..Gpu::default() };
    (0..number).map(gpu).collect()
}

fn environments(caller: &[(&str, &str)], host: &[(&str, &str)], image: &[(&str, &str)]) -> Environments {
    let map = |settings: &[(&str, &str)]| {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Environments { caller: map(caller), host: map(host), image: map(image) }
}

fn decide(
    with: impl Fn(&Situation<'_>) -> Result<Decision, Error>,
    gpus: &[Gpu],
    environments: &Environments,
) -> Result<(Vec<usize>, String), Error> {
    let decision = with(&Situation { gpus, environments, own_dev: true })?;
    let set: Vec<String> = decision.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok((decision.shown, set.join(" ")))
}

#[test]
fn who_counts() {
    let of = |caller: &[(&str, &str)], host: &[(&str, &str)], image: &[(&str, &str)]| {
        decide(nvidia, &gpus(4), &environments(caller, host, image)).map(|(shown, _)| shown)
    };
    let all = [0, 1, 2, 3];
    assert_eq!(of(&[], &[], &[]).unwrap(), all);
    assert_eq!(
        of(&[], &[("SLURM_JOB_GPUS", "1,3")], &[(NVIDIA, "all")]).unwrap(),
        [1, 3],
        "an image gives nothing back"
    );
    assert_eq!(of(&[], &[("SLURM_JOB_GPUS", "1-3"), ("SLURM_STEP_GPUS", "2")], &[]).unwrap(), [2]);
    assert_eq!(of(&[(NVIDIA, "3")], &[("SLURM_JOB_GPUS", "1,3"), (NVIDIA, "1")], &[]).unwrap(), [3]);
    assert_eq!(of(&[], &[(NVIDIA, "GPU-11aa")], &[(NVIDIA, "0")]).unwrap(), [1]);
    assert_eq!(of(&[], &[], &[(NVIDIA, "0,2")]).unwrap(), [0, 2]);
    assert_eq!(of(&[], &[("SLURM_JOB_GPUS", "1")], &[(NVIDIA, "0,2")]).unwrap(), [1], "an image may not know");
    assert_eq!(of(&[(NVIDIA, "none")], &[], &[(NVIDIA, "all")]).unwrap(), [0; 0]);
    assert_eq!(of(&[(NVIDIA, "void")], &[], &[]).unwrap(), [0; 0]);
    assert_eq!(of(&[], &[(NVIDIA, "void")], &[]).unwrap(), all, "said by a container around this one");
    assert_eq!(of(&[], &[], &[(NVIDIA, "void")]).unwrap(), all);
    let not_given = of(&[(NVIDIA, "0")], &[("SLURM_JOB_GPUS", "1,3")], &[]).unwrap_err().to_string();
    assert!(not_given.contains("NVIDIA_VISIBLE_DEVICES=0") && not_given.contains("1 (GPU-11aa-1), 3"), "{not_given}");
    let absent = of(&[(NVIDIA, "7")], &[], &[]).unwrap_err().to_string();
    assert!(absent.contains("no such GPU") && absent.contains("0 (GPU-00aa-1)"), "{absent}");
    assert!(matches!(of(&[(NVIDIA, "x")], &[], &[]), Err(Error::Malformed { .. })));
}

#[test]
fn numbers_are_counted_among_what_is_seen() {
    let of = |gpus: &[Gpu], host: &[(&str, &str)]| decide(nvidia, gpus, &environments(&[], host, &[])).unwrap();
    assert_eq!(of(&gpus(4), &[(CUDA, "3,1")]), (vec![1, 3], "CUDA_VISIBLE_DEVICES=1,0".to_owned()));
    assert_eq!(of(&gpus(4), &[(CUDA, "2,9,1")]), (vec![2], "CUDA_VISIBLE_DEVICES=0".to_owned()), "as CUDA reads it");
    assert_eq!(of(&gpus(4), &[(CUDA, "GPU-22")]), (vec![2], String::new()), "such a name stays");
    assert_eq!(of(&gpus(4), &[(CUDA, "-1")]).0, [0; 0]);
    assert_eq!(of(&gpus(4), &[(CUDA, "NoDevFiles")]).0, [0; 0]);
    // Without a cgroup the scheduler's numbers are the host's in both variables.
    let both = of(&gpus(4), &[("SLURM_JOB_GPUS", "2,3"), (CUDA, "3")]);
    assert_eq!(both, (vec![3], "CUDA_VISIBLE_DEVICES=0".to_owned()));
    // With one they are counted within it.
    let mut within = gpus(4);
    within[0].reachable = false;
    within[1].reachable = false;
    let both = of(&within, &[("SLURM_JOB_GPUS", "2,3"), (CUDA, "1")]);
    assert_eq!(both, (vec![3], "CUDA_VISIBLE_DEVICES=0".to_owned()));
    let mut mixed = gpus(2);
    mixed[0].model = Some("slow".into());
    assert_eq!(of(&mixed, &[(CUDA, "1")]).0, [0, 1], "CUDA numbers by speed");
    assert_eq!(of(&mixed, &[(CUDA, "1"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")]).0, [1]);
}

#[test]
fn parts_of_gpus_are_chosen() {
    let mut all = gpus(2);
    for (instance, name) in [(1, "MIG-aaaa1"), (2, "MIG-bbbb2")] {
        all.insert(
            all.len() - 1,
            Gpu { index: 0, uuid: Some(name.into()), instance: Some((instance, 0)), reachable: true, ..Gpu::default() },
        );
    }
    let of = |value: &str| decide(nvidia, &all, &environments(&[(NVIDIA, value)], &[], &[])).map(|(shown, _)| shown);
    assert_eq!(of("0:1").unwrap(), [2]);
    assert_eq!(of("MIG-GPU-00aa-1/1/0").unwrap(), [1]);
    assert_eq!(of("MIG-bbbb2,1").unwrap(), [2, 3]);
    assert_eq!(of("0").unwrap(), [0, 1, 2], "with its parts");
    assert_eq!(of("GPU-00aa,1").unwrap(), [0, 3]);
    assert!(of("0:2").is_err());
}

#[test]
fn in_the_hosts_dev_cuda_is_told() {
    let environments = environments(&[(NVIDIA, "1")], &[], &[]);
    let decision = nvidia(&Situation { gpus: &gpus(2), environments: &environments, own_dev: false }).unwrap();
    assert_eq!(decision.set, [(CUDA.to_owned(), "GPU-11aa-1".to_owned())]);
    assert!(decision.warnings[0].contains("--contain"));
}

#[test]
fn amd_and_intel_have_their_own() {
    let of = |host: &[(&str, &str)]| decide(amd, &gpus(4), &environments(&[], host, &[])).unwrap();
    assert_eq!(of(&[(ROCR, "3,1"), ("HIP_VISIBLE_DEVICES", "1")]), (vec![1, 3], "ROCR_VISIBLE_DEVICES=1,0".to_owned()));
    assert_eq!(of(&[("HIP_VISIBLE_DEVICES", "2")]), (vec![2], "HIP_VISIBLE_DEVICES=0".to_owned()));
    let both = of(&[("HIP_VISIBLE_DEVICES", "2"), ("GPU_DEVICE_ORDINAL", "2")]);
    assert_eq!(both, (vec![2], "HIP_VISIBLE_DEVICES=0 GPU_DEVICE_ORDINAL=0".to_owned()));
    assert_eq!(of(&[("HIP_VISIBLE_DEVICES", "2"), ("GPU_DEVICE_ORDINAL", "1")]).0, [0, 1, 2, 3]);
    let of = |host: &[(&str, &str)]| decide(intel, &gpus(4), &environments(&[], host, &[])).unwrap();
    assert_eq!(of(&[(MASK, "2")]), (vec![0, 1, 2, 3], String::new()), "tiles");
    let composite = [(MASK, "3.1,1"), (HIERARCHY, "COMPOSITE")];
    assert_eq!(of(&composite), (vec![1, 3], "ZE_AFFINITY_MASK=1.1,0".to_owned()));
    assert_eq!(of(&[("SLURM_STEP_GPUS", "0")]).0, [0]);
}
