//! Rules of network plugins for a policy `shop/deny-all` that selects the server, pod `shop/db-0`, and another one
//! for a pod that nobody talks to: the chains that a packet goes through, with their comments. IPv4 only.

use anyhow::{Context as _, Result};

use super::Scene;
use super::tool::feed;

/// Who writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkPlugin {
    /// kube-router with iptables, as in k3s.
    KubeRouter,
    /// kube-router with nftables, whose comments belong to rules and are no match.
    KubeRouterNftables,
    /// Calico with iptables, which knows a pod by its device.
    Calico,
}

impl NetworkPlugin {
    /// Writes them on the router of a scene.
    ///
    /// # Errors
    /// It has none, or the tool refuses them.
    pub fn write(self, scene: &Scene) -> Result<()> {
        let router = scene.router()?;
        let restore = |rules: &str| router.run(|| feed("iptables-nft-restore", "--noflush", rules).map(drop));
        match self {
            Self::KubeRouter => restore(KUBE_ROUTER),
            Self::KubeRouterNftables => router.nft(KUBE_ROUTER_NFTABLES),
            Self::Calico => {
                let route = router.ip(&format!("-o route get {}", scene.server_ip()))?;
                let device = route.split(' ').skip_while(|word| *word != "dev").nth(1).context("a device")?;
                restore(&CALICO.replace("DEVICE", device))
            }
        }
    }
}

/// As `pkg/controllers/netpol` of 2.6 has them.
const KUBE_ROUTER: &str = r#"*filter
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-POD-FW-DMK5BTVAK65PRJG4 - [0:0]
:KUBE-POD-FW-QFZZRIISKDZ26IQ5 - [0:0]
:KUBE-NWPLCY-KJ44RUYO6QOPC6DH - [0:0]
:KUBE-NWPLCY-JX2HQOW4QTTIKQYI - [0:0]
-A FORWARD -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-FORWARD
-A KUBE-ROUTER-FORWARD -d 10.9.1.2/32 -m comment --comment "rule to jump traffic destined to POD name:db-0 namespace: shop to chain KUBE-POD-FW-DMK5BTVAK65PRJG4" -j KUBE-POD-FW-DMK5BTVAK65PRJG4
-A KUBE-ROUTER-FORWARD -d 10.9.1.3/32 -m comment --comment "rule to jump traffic destined to POD name:other-0 namespace: shop to chain KUBE-POD-FW-QFZZRIISKDZ26IQ5" -j KUBE-POD-FW-QFZZRIISKDZ26IQ5
-A KUBE-POD-FW-DMK5BTVAK65PRJG4 -m comment --comment "rule for stateful firewall for pod" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-POD-FW-DMK5BTVAK65PRJG4 -m comment --comment "rule to drop invalid state for pod" -m conntrack --ctstate INVALID -j DROP
-A KUBE-POD-FW-DMK5BTVAK65PRJG4 -m comment --comment "run through nw policy deny-all" -j KUBE-NWPLCY-KJ44RUYO6QOPC6DH
-A KUBE-POD-FW-DMK5BTVAK65PRJG4 -m comment --comment "rule to REJECT traffic destined for POD name:db-0 namespace: shop" -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-POD-FW-QFZZRIISKDZ26IQ5 -m comment --comment "run through nw policy of-another" -j KUBE-NWPLCY-JX2HQOW4QTTIKQYI
-A KUBE-POD-FW-QFZZRIISKDZ26IQ5 -m comment --comment "rule to REJECT traffic destined for POD name:other-0 namespace: shop" -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"#;

/// As `felix/rules` has them.
const CALICO: &str = r#"*filter
:cali-FORWARD - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-tw-cali0 - [0:0]
:cali-tw-cali1 - [0:0]
:cali-pi-_tTE-E7yY40ogArNVgKt - [0:0]
:cali-pi-_Other - [0:0]
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A cali-FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -j cali-to-wl-dispatch
-A cali-to-wl-dispatch -o DEVICE -m comment --comment "cali:v3sEoNToLYUOg7M6" -g cali-tw-cali0
-A cali-to-wl-dispatch -o cali1 -m comment --comment "cali:v3sEoNToLYUOg7M7" -g cali-tw-cali1
-A cali-tw-cali0 -m comment --comment "cali:eCrqwxNk3cKw9Eq6" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-cali0 -m comment --comment "cali:leBL64hpAXM9y4nk" -m comment --comment "Start of policies" -j MARK --set-xmark 0x0/0x20000
-A cali-tw-cali0 -m comment --comment "cali:pm-LK-c1ra31tRwz" -m mark --mark 0x0/0x20000 -j cali-pi-_tTE-E7yY40ogArNVgKt
-A cali-tw-cali0 -m comment --comment "cali:FUDVBYh1Yr6tVRgq" -m comment --comment "Drop if no policies passed packet" -m mark --mark 0x0/0x20000 -j DROP
-A cali-tw-cali1 -m comment --comment "cali:pm-LK-c1ra31tRwy" -m mark --mark 0x0/0x20000 -j cali-pi-_Other
-A cali-tw-cali1 -m comment --comment "cali:FUDVBYh1Yr6tVRgp" -m comment --comment "Drop if no policies passed packet" -m mark --mark 0x0/0x20000 -j DROP
-A cali-pi-_tTE-E7yY40ogArNVgKt -m comment --comment "cali:M4Und37HGrw6jUk8" -m comment --comment "Policy shop/knp.default.deny-all ingress"
-A cali-pi-_Other -m comment --comment "cali:M4Und37HGrw6jUk9" -m comment --comment "Policy shop/knp.default.of-another ingress"
COMMIT
"#;

/// As `pkg/controllers/netpol` writes them with `knftables`.
const KUBE_ROUTER_NFTABLES: &str = r#"table inet kube-router {
    chain nwplcy {
    }
    chain pod-fw-other {
        counter jump nwplcy comment "run through nw policy of-another"
        meta mark & 0x10000 == 0x0 counter reject comment "REJECT traffic destined for POD name:other-0"
    }
    chain pod-fw {
        ct state established,related counter accept comment "rule for stateful firewall for pod"
        counter jump nwplcy comment "run through nw policy deny-all"
        meta mark & 0x10000 == 0x0 counter reject comment "REJECT traffic destined for POD name:db-0"
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip daddr 10.9.1.2 counter jump pod-fw comment "jump traffic to POD name:db-0 ns: shop to chain pod-fw"
        ip daddr 10.9.1.3 counter jump pod-fw-other comment "jump traffic to POD name:other-0 ns: shop to chain pod-fw-other"
    }
}
"#;
