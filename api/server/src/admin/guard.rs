//! Whether a request comes from somebody on this machine, or from a website through a browser on it.
//!
//! A website can make a browser send requests here, and by giving its own name this machine's address (DNS
//! rebinding) even read the answers. What it cannot do is have the browser send a `Host` that is a name of this
//! machine with its own page behind it, an `Origin` that is not its own, or a header of ours without asking
//! first, and nobody is ever allowed that here.

use std::net::IpAddr;

/// The header that every change has, whatever its value.
pub(super) const MARK: &str = "x-palisade-admin";

/// What counts of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    /// It is no GET or HEAD.
    pub(super) changes: bool,
    pub(super) host: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    /// `Sec-Fetch-Site`, which browsers send.
    pub(super) site: Option<&'a str>,
    pub(super) mark: Option<&'a str>,
}

/// Refuses what did not come from this machine's own page, or from a program on it.
pub(super) fn judge(asked: &Asked<'_>) -> Result<(), &'static str> {
    let host = asked.host.ok_or("the request names no host")?;
    if !is_loopback(host) {
        return Err("the host is none of 127.0.0.1, [::1] and localhost");
    }
    let is_own = |origin: &str| origin.strip_prefix("http://") == Some(host);
    if asked.origin.is_some_and(|origin| !is_own(origin)) {
        return Err("the request comes from a page of another origin");
    }
    // `none` is a person who typed the address.
    if !matches!(asked.site, None | Some("same-origin" | "none")) && asked.changes {
        return Err("the request comes from a page of another site");
    }
    if asked.changes && asked.mark.is_none() {
        return Err("a change has the header x-palisade-admin");
    }
    Ok(())
}

/// Whether a `Host` is a name of this machine, with any port: one that is forwarded is another.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if is_port(port) => name,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Asked<'static> = Asked {
        changes: false,
        host: Some("127.0.0.1:7403"),
        origin: None,
        site: None,
        mark: None,
    };

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        for host in ["127.0.0.1", "127.0.0.1:80", "localhost:7403", "LOCALHOST", "[::1]", "[::1]:1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7403",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:80",
            "0.0.0.0",
            "[::1",
            "[::1].evil.example",
            "127.0.0.1:80:80",
            "127.0.0.1:x",
            "user@127.0.0.1",
        ] {
            assert!(!is_loopback(host), "{host}");
            let asked = Asked { host: Some(host), ..HOST };
            judge(&asked).unwrap_err();
        }
        judge(&Asked { host: None, ..HOST }).unwrap_err();
    }

    #[test]
    fn what_a_website_sends_is_refused() {
        judge(&HOST).unwrap();
        let own = Some("http://127.0.0.1:7403");
        judge(&Asked { origin: own, site: Some("same-origin"), ..HOST }).unwrap();
        for origin in
            ["http://evil.example", "null", "https://127.0.0.1:7403", "http://127.0.0.1:1"]
        {
            judge(&Asked { origin: Some(origin), ..HOST }).unwrap_err();
        }
    }

    #[test]
    fn a_change_has_our_mark_and_no_other_site() {
        let change = Asked { changes: true, mark: Some("1"), ..HOST };
        judge(&change).unwrap();
        judge(&Asked { origin: Some("http://127.0.0.1:7403"), ..change }).unwrap();
        judge(&Asked { mark: None, ..change }).unwrap_err();
        judge(&Asked { origin: Some("http://evil.example"), ..change }).unwrap_err();
        for site in ["cross-site", "same-site"] {
            judge(&Asked { site: Some(site), ..change }).unwrap_err();
        }
    }
}
