//! What stands at the end of `flyover help COMMAND`: lines to copy. A test parses each.

pub(super) const RUN: &str = "\
Examples:
  flyover run -c /etc/flyover/gateway.toml
  flyover run --port wan0=0000:3b:00.0 --port lan0=0000:3b:00.1
  flyover run --port wan0=net_tap0,iface=uplink --port lan0=net_tap1,iface=client --log-level info";

pub(super) const CHECK: &str = "\
Examples:
  flyover check -c /etc/flyover/gateway.toml
  flyover check --port wan0=0000:3b:00.0 --port lan0=0000:3b:00.1 --json";

pub(super) const RELOAD: &str = "\
Examples:
  flyover reload --check                    what differs, and what of it takes a restart
  flyover reload
  flyover reload --partial --json | jq .restart";

pub(super) const DOCTOR: &str = "\
Examples:
  flyover doctor
  flyover doctor -c /etc/flyover/gateway.toml --json";

pub(super) const BIND: &str = "\
Examples:
  flyover bind --status                     which NICs there are, and what can be done
  flyover bind 0000:3b:00.0 0000:3b:00.1";

pub(super) const UNBIND: &str = "\
Examples:
  flyover unbind 0000:3b:00.0 0000:3b:00.1";

pub(super) const STATUS: &str = "\
Examples:
  flyover status                            is all well?
  flyover status --watch=5                  again each 5 seconds
  flyover status --json | jq .punted_by_reason";

pub(super) const PORTS: &str = "\
Examples:
  flyover ports
  flyover ports --json | jq '.[] | {name, link_up}'";

pub(super) const FLOWS: &str = "\
Examples:
  flyover flows --sort rate --limit 10      the ten that carry most just now
  flyover flows --address 192.168.1.0/24    of one network, before or after NAT
  flyover flows --state candidate           what does not fly yet; WHY tells the reason
  flyover flows --proto udp --port 53 --watch
  flyover flows --json | jq length";

pub(super) const STATS: &str = "\
Examples:
  flyover stats
  flyover stats --json | jq '.workers[].cycles_per_packet'";

pub(super) const EVENTS: &str = "\
Examples:
  flyover events -n 20                      the last 20
  flyover events --level warn               what an operator should look at
  flyover events --follow --json            an object a line, for programs";

pub(super) const HARDWARE: &str = "\
Examples:
  flyover hardware
  flyover hardware --rules tcp 192.168.1.10:40000 192.0.2.1:443";

pub(super) const TOP: &str = "\
Examples:
  flyover top
  flyover top --interval 5";

pub(super) const EXPLAIN: &str = "\
Examples:
  flyover explain tcp 192.168.1.10:40000 192.0.2.1:443
  flyover explain udp [fd00::10]:5000 [2001:db8::1]:53 --watch";

pub(super) const TRACE: &str = "\
Examples:
  flyover trace                             what becomes of the next ten packets
  flyover trace -n 1 --timeout 30s udp port 53
  flyover trace --json tcp and host 192.0.2.1";

pub(super) const CAPTURE: &str = "\
Examples:
  flyover capture -w /tmp/lan0.pcapng -i lan0 -c 1000 tcp port 443
  flyover capture -w - --points punt,drop | tcpdump -nr -";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::cli::Arguments;

    /// An example's words: up to what is said of it, or what reads it.
    fn words(line: &str) -> Vec<&str> {
        let end = line.find("  ").or_else(|| line.find(" | ")).unwrap_or(line.len());
        line[..end].split_whitespace().collect()
    }

    #[test]
    fn each_command_has_examples_and_each_example_is_right() {
        for command in Arguments::command().get_subcommands().filter(|command| command.get_name() != "help") {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut lines = help.lines();
            assert_eq!(lines.next(), Some("Examples:"), "flyover help {name} has none");
            let lines: Vec<&str> = lines.map(str::trim_start).collect();
            assert!(!lines.is_empty(), "flyover help {name}");
            for line in lines {
                let words = words(line);
                assert_eq!(words[..2], ["flyover", name], "{line}");
                if let Err(error) = Arguments::try_parse_from(words) {
                    panic!("{line}: {error}");
                }
            }
        }
    }
}
