//! The nft rulesets that gateways in the laboratory run.

/// The ruleset that users are given to start from. Its port forward leads from port 8080 of `wan0` to port 80 of
/// [`LAN_SERVER`](crate::topology::LAN_SERVER).
pub const SHIPPED: &str = include_str!("../../configs/nft/home-router.nft");

/// A gateway that forwards everything and tracks connections, without NAT.
pub const ROUTED: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    ct state new accept
  }
}
";

/// A home router: masquerade towards `wan0`, TCP and UDP port 8080 of it forwarded to port 80 of a host in
/// the LAN, and hairpin NAT for the LAN itself.
pub const HOME_ROUTER: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname lan0 accept
    ct status dnat accept
  }
}
table ip nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr 198.51.100.1 meta l4proto { tcp, udp } th dport 8080 dnat to 192.168.1.2:80
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname wan0 masquerade
    iifname lan0 oifname lan0 ct status dnat masquerade
  }
}
";

/// Source NAT to a fixed address and range of ports.
pub const SNAT: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname lan0 accept
  }
}
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname wan0 meta l4proto { tcp, udp } snat to 198.51.100.77:20000-29999
  }
}
";

/// A home router's IPv6 with NAT66: masquerade towards `wan0`, and TCP and UDP port 8080 of its address there
/// forwarded to port 80 of a host in the LAN.
pub const HOME_ROUTER6: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname lan0 accept
    ct status dnat accept
  }
}
table ip6 nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ip6 daddr 2001:db8:1::1 meta l4proto { tcp, udp } th dport 8080 dnat to [fd00:2::2]:80
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname wan0 masquerade
  }
}
";

/// Network prefix translation: the LAN's prefix towards `wan0` is 2001:db8:77::/64, host by host, and from there it
/// is reached under that prefix.
pub const NPT: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state invalid drop
  }
}
table ip6 nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    iifname wan0 dnat ip6 prefix to ip6 daddr map { 2001:db8:77::/64 : fd00:2::/64 }
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname wan0 snat ip6 prefix to ip6 saddr map { fd00:2::/64 : 2001:db8:77::/64 }
  }
}
";
