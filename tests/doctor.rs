//! `heirloom doctor` on a host that has KVM.

use std::collections::BTreeSet;

use assert_cmd::Command;

fn heirloom() -> Command {
    Command::new(env!("CARGO_BIN_EXE_heirloom"))
}

#[test]
fn on_kvm_the_host_is_said_to_be_usable() {
    let output = heirloom().arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("This host can run heirloom."), "{text}");
    for word in [
        "KVM: /dev/kvm",
        "KVM_CAP_IRQCHIP",
        "physical addresses",
        "memory slots",
        "sandbox: system calls are",
        "QEMU: qemu-system-x86_64",
        "--machine qemu",
    ] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn on_kvm_the_json_says_the_same_and_has_every_capability_and_feature() {
    let output = heirloom().args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["usable"], true, "{report:#}");
    assert_eq!(report["problems"], serde_json::json!([]));
    let capabilities = report["capabilities"].as_array().unwrap();
    let named = |required: bool| -> BTreeSet<&str> {
        let of_kind = capabilities.iter().filter(|it| it["required"] == required);
        of_kind.map(|it| it["name"].as_str().unwrap()).collect()
    };
    assert_eq!(
        named(true),
        BTreeSet::from([
            "KVM_CAP_EXT_CPUID",
            "KVM_CAP_IRQCHIP",
            "KVM_CAP_IRQFD",
            "KVM_CAP_PIT2",
            "KVM_CAP_SET_TSS_ADDR",
            "KVM_CAP_USER_MEMORY",
        ])
    );
    assert_eq!(
        named(false),
        BTreeSet::from([
            "KVM_CAP_INTERNAL_ERROR_DATA",
            "KVM_CAP_TSC_DEADLINE_TIMER",
            "KVM_CAP_X2APIC_API",
        ])
    );
    for found in capabilities {
        assert!(found["present"].is_boolean(), "{found:#}");
        if found["required"] == true {
            assert_eq!(found["present"], true, "{found:#}");
        }
    }
    assert!(report["sandbox"]["seccomp"].is_boolean(), "{report:#}");
    let landlock = &report["sandbox"]["landlock"];
    assert!(landlock.is_null() || landlock.is_u64(), "{report:#}");
    assert_eq!(report["qemu"]["program"], "qemu-system-x86_64");
    let version = report["qemu"]["version"].as_str().unwrap();
    assert!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "{version}"
    );
    let features = report["cpu"]["features"].as_array().unwrap();
    for name in ["nx", "smep", "smap", "pcid", "la57", "1gib-pages"] {
        assert!(features.iter().any(|found| found["name"] == name), "{name}");
    }
}

#[test]
fn a_host_without_kvm_is_exit_code_three_with_the_remedy() {
    for (device, remedy) in [
        ("/no/such/kvm", "modprobe"),
        ("/dev/null", "not KVM's device"),
    ] {
        let output = heirloom()
            .args(["doctor", "--device", device])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(device) && text.contains(remedy), "{text}");
        assert!(text.contains("cannot run heirloom"), "{text}");

        let output = heirloom()
            .args(["doctor", "--json", "--device", device])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{report:#}");
        assert_eq!(report["usable"], false);
        assert_eq!(report["problems"].as_array().unwrap().len(), 1);

        let output = heirloom()
            .args(["run", "--device", device])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(remedy), "{said}");
    }
}

#[test]
fn on_kvm_a_host_without_qemu_is_told_what_it_would_be_good_for() {
    let output = heirloom()
        .arg("doctor")
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("no qemu-system-x86_64 in PATH"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
}
