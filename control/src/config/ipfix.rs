//! `[ipfix]`: where flow records go.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::IpfixConfig;
use super::bounds::{DEFAULT_DOMAIN, DEFAULT_EXPORT, DEFAULT_MESSAGE_SIZE, DOMAIN, EXPORT, MESSAGE_SIZE};
use super::error::{ConfigError, Problem};
use super::raw::RawIpfix;
use super::resolve::{duration, number, value};
use super::source::Source;

pub(super) fn resolve(source: &Source<'_>, raw: &RawIpfix) -> Result<IpfixConfig, ConfigError> {
    let collectors = collectors(source, &raw.collectors)?;
    let from = raw.source.as_ref().map(|text| address(source, text, &collectors)).transpose()?;
    let time =
        |key, text: &Option<Spanned<String>>| duration(source, key, text.as_ref(), DEFAULT_EXPORT, EXPORT);
    let message_size = raw.message_size.as_ref();
    let domain = raw.observation_domain.as_ref();
    Ok(IpfixConfig {
        source: from,
        active_timeout: time("active_timeout", &raw.active_timeout)?,
        template_interval: time("template_interval", &raw.template_interval)?,
        observation_domain: domain
            .map_or(Ok(DEFAULT_DOMAIN), |given| number(source, "observation_domain", given, DOMAIN))?,
        message_size: message_size
            .map_or(Ok(DEFAULT_MESSAGE_SIZE), |given| number(source, "message_size", given, MESSAGE_SIZE))?,
        nat_events: raw.nat_events.unwrap_or(false),
        collectors,
    })
}

fn collectors(
    source: &Source<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
) -> Result<Vec<SocketAddr>, ConfigError> {
    if list.get_ref().is_empty() {
        let value = source.text(&list.span()).unwrap_or("[]").to_owned();
        let right = "name one, or leave [ipfix] out to send no records".to_owned();
        return Err(source.fault_at(&list.span(), Problem::Value { key: "collectors", value, right }));
    }
    let mut collectors: Vec<SocketAddr> = Vec::new();
    for text in list.get_ref() {
        let fault = |right: &str| value(source, "collectors", text, right.to_owned());
        let collector: SocketAddr = text.get_ref().parse().map_err(|_| {
            fault(
                "it must be an address and a UDP port, such as \"192.0.2.50:4739\" or \"[2001:db8::50]:4739\"; names are \
                 not looked up",
            )
        })?;
        if collector.port() == 0 || collector.ip().is_unspecified() || collector.ip().is_multicast() {
            return Err(fault("it must be the address and the port of one host"));
        }
        if collectors.contains(&collector) {
            return Err(fault("it is in the list already"));
        }
        collectors.push(collector);
    }
    Ok(collectors)
}

fn address(
    source: &Source<'_>,
    text: &Spanned<String>,
    collectors: &[SocketAddr],
) -> Result<IpAddr, ConfigError> {
    let fault = |right: String| value(source, "source", text, right);
    let address: IpAddr = text
        .get_ref()
        .parse()
        .map_err(|_| fault("it must be an address of this host, such as \"192.0.2.1\"".to_owned()))?;
    match collectors.iter().find(|collector| collector.is_ipv4() != address.is_ipv4()) {
        Some(other) => Err(fault(format!("the collector {other} can't be reached from it: another family"))),
        None => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{fault_below_port, parse};
    use super::*;

    #[test]
    fn collectors_are_addresses_that_can_be_reached() {
        let one = |line: &str| format!("[ipfix]\ncollectors = [\"[2001:db8::50]:4739\"]\n{line}");
        let text = format!("[[port]]\nname = \"a\"\ndevice = \"net_null0\"\n{}", one(""));
        let ipfix = IpfixConfig {
            collectors: vec!["[2001:db8::50]:4739".parse().expect("an address")],
            source: None,
            active_timeout: Duration::from_secs(60),
            template_interval: Duration::from_secs(60),
            observation_domain: 1,
            message_size: 1400,
            nat_events: false,
        };
        assert_eq!(parse(&text).expect("valid").ipfix, Some(ipfix), "the defaults");
        assert_eq!(
            fault_below_port("[ipfix]\nnat_events = true"),
            "gw.toml:4:1: `collectors` is missing in [ipfix]: \
             add collectors = [\"192.0.2.50:4739\"], where the records are to be sent"
        );
        assert_eq!(
            fault_below_port("[ipfix]\ncollectors = [\"collector.example:4739\"]"),
            "gw.toml:5:15: collectors = \"collector.example:4739\": it must be an address and a UDP port, such as \
             \"192.0.2.50:4739\" or \"[2001:db8::50]:4739\"; names are not looked up"
        );
        for (text, right) in [
            ("[]", "name one, or leave [ipfix] out to send no records"),
            ("[\"192.0.2.50:0\"]", "it must be the address and the port of one host"),
            ("[\"224.0.0.1:4739\"]", "it must be the address and the port of one host"),
            ("[\"192.0.2.50:1\", \"192.0.2.50:1\"]", "it is in the list already"),
        ] {
            let told = fault_below_port(&format!("[ipfix]\ncollectors = {text}"));
            assert!(told.starts_with("gw.toml:5:") && told.ends_with(right), "{told}");
        }
        for (line, message) in [
            (
                "source = \"wan0\"",
                "10: source = \"wan0\": it must be an address of this host, such as \"192.0.2.1\"",
            ),
            (
                "source = \"192.0.2.1\"",
                "10: source = \"192.0.2.1\": the collector [2001:db8::50]:4739 can't be reached from it: another family",
            ),
            ("active_timeout = \"0\"", "18: active_timeout = \"0\": must be from 1s to 1h"),
            ("observation_domain = -1", "22: observation_domain = -1: it must be from 0 to 4294967295"),
            ("message_size = 100", "16: message_size = 100: it must be from 512 to 8900"),
        ] {
            assert_eq!(fault_below_port(&one(line)), format!("gw.toml:6:{message}"));
        }
    }
}
