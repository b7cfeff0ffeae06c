//! The live page at `/`: one HTML document with its style and its scripts inside, put together from the files in
//! `page/`. It loads nothing else, and a browser runs nothing in it that is not from these files: the policy names each
//! block by its hash.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64;

const HTML: &str = include_str!("page/page.html");

/// The style and the scripts, by the lines of the HTML that they stand for.
const PARTS: [(&str, Kind, &str); 8] = [
    ("<link rel=\"stylesheet\" href=\"page.css\">", Kind::Style, include_str!("page/page.css")),
    ("<script src=\"numbers.js\"></script>", Kind::Script, include_str!("page/numbers.js")),
    ("<script src=\"dom.js\"></script>", Kind::Script, include_str!("page/dom.js")),
    ("<script src=\"chart.js\"></script>", Kind::Script, include_str!("page/chart.js")),
    ("<script src=\"sections.js\"></script>", Kind::Script, include_str!("page/sections.js")),
    ("<script src=\"storms.js\"></script>", Kind::Script, include_str!("page/storms.js")),
    ("<script src=\"reports.js\"></script>", Kind::Script, include_str!("page/reports.js")),
    ("<script src=\"page.js\"></script>", Kind::Script, include_str!("page/page.js")),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Style,
    Script,
}

/// The document, and its Content-Security-Policy.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let (mut html, mut styles, mut scripts) = (HTML.to_owned(), String::new(), String::new());
    for (line, kind, text) in PARTS {
        let (tag, hashes) = match kind {
            Kind::Style => ("style", &mut styles),
            Kind::Script => ("script", &mut scripts),
        };
        let text = format!("\n{text}");
        hashes.push_str(&format!(" 'sha256-{}'", BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref())));
        html = html.replace(line, &format!("<{tag}>{text}</{tag}>"));
    }
    let policy = format!(
        "default-src 'none'; style-src{styles}; script-src{scripts}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    (html, policy)
});

/// Whether who asks with these headers reads pages: it names HTML, and likes nothing that programs read better.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let (mut html, mut others) = (0.0_f32, 0.0_f32);
    for clause in accept.flat_map(|value| value.split(',')) {
        let mut parts = clause.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
        match &*media_type {
            "text/html" | "application/xhtml+xml" => html = html.max(quality),
            "application/json" | "text/plain" => others = others.max(quality),
            _ => {}
        }
    }
    html > 0.0 && html >= others
}

/// The page, where it was asked for at this path. It asks for its numbers beside itself, so that it works below any
/// path; at one without a slash at its end there is nothing beside it, so the browser is sent on.
pub(super) fn page(path: &str) -> Response {
    if let Some((_, last)) = path.rsplit_once('/').filter(|(_, last)| !last.is_empty()) {
        return (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, format!("{last}/"))]).into_response();
    }
    let (html, policy) = &*PAGE;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::VARY, "accept"),
    ];
    (headers, html.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_the_page_and_programs_do_not() {
        for (accept, wanted) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", true),
            ("text/html", true),
            ("text/html, application/json;q=0.9", true),
            ("application/json, text/html;q=0.5", false),
            ("application/json", false),
            ("text/plain", false),
            ("text/html;q=0", false),
            ("*/*", false),
            ("", false),
        ] {
            let headers = [(header::ACCEPT, accept.parse().unwrap())].into_iter().collect();
            assert_eq!(is_wanted(&headers), wanted, "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }

    /// What would be loaded from elsewhere, or run without a hash, fails here and not in somebody's browser.
    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let (html, policy) = &*PAGE;
        for (line, kind, text) in PARTS {
            assert!(HTML.contains(line) && html.contains(text) && !html.contains(line), "{line}");
            let closing = if kind == Kind::Style { "</style" } else { "</script" };
            assert!(!text.contains(closing), "{line} would end early");
        }
        assert_eq!(policy.matches("'sha256-").count(), PARTS.len());
        for loads in
            [" src=", "http:", "https:", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacent", "eval("]
        {
            let text = html.replace("xmlns='http:", "").replace("\"http://www.w3.org/2000/svg\"", "");
            assert!(!text.contains(loads), "{loads}");
        }
        assert!(!html.contains(" style=") && !html.contains(" onclick="), "the policy forbids them");
    }
}
