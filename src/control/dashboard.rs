//! The dashboard: a page and what it is made of, from within the program.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// What browsers may load for the page: nothing from anywhere else.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'self'";

/// Path, content type and content of each part.
const PARTS: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("dashboard/index.html")),
    ("/assets/app.js", "text/javascript; charset=utf-8", include_str!("dashboard/app.js")),
    ("/assets/style.css", "text/css; charset=utf-8", include_str!("dashboard/style.css")),
    ("/assets/uplot.js", "text/javascript; charset=utf-8", include_str!("dashboard/uplot.js")),
    ("/assets/uplot.css", "text/css; charset=utf-8", include_str!("dashboard/uplot.css")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
];

/// Serves all parts.
pub fn router() -> Router {
    PARTS.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let part = move || async move {
            let fields = [
                (header::CONTENT_TYPE, kind),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::REFERRER_POLICY, "no-referrer"),
                // Another version may run tomorrow.
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (fields, content).into_response()
        };
        router.route(path, get(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_its_parts_and_nothing_else() {
        let page = PARTS[0].2;
        for (path, ..) in &PARTS[1..] {
            assert!(page.contains(path), "{path}");
        }
        for word in ["http://", "https://", "//cdn", "style=", "onclick=", "<script>"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
