"""Looks at the built site as a reader would, in a headless Chromium.

    python .ci/browse.py SITE [--screenshots FOLDER]

opens the start page, the gallery, a page of the reference and a notebook on a desktop
and on a phone, in light and in dark, and searches. It fails on an error in the console,
on a request that leaves the site or finds nothing, on a picture that is missing or has
no alternative text, on a page that is wider than the screen, and on a search that does
not lead where it should. Without Chromium or playwright it says so, and does nothing.
"""

import argparse
import functools
import http.server
import pathlib
import shutil
import sys
import threading

PAGES = {
    "start": "",
    "gallery": "gallery/",
    "which-loss": "which-loss/",
    "numerics": "numerics/",
    "performance": "performance/",
    "reference": "api/multiclass/",
    "notebook": "notebooks/quickstart/",
}
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "dark",
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}
# What is typed, and where one of the first three results has to lead.
SEARCHES = {
    "cross entropy": ("softmax_cross_entropy",),
    "BCEWithLogitsLoss": ("coming-from/", "sigmoid_binary_cross_entropy"),
    "huber": ("#jaxloss.regression.smooth.huber_loss",),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=pathlib.Path, help="folder that mkdocs built")
    parser.add_argument("--screenshots", type=pathlib.Path, help="folder to write to")
    options = parser.parse_args()
    if not (options.site / "index.html").is_file():
        raise SystemExit(f"{options.site} holds no built site")
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
    )
    if chromium is None:
        print("SKIPPED: no chromium on the PATH (Debian's package is `chromium`)")
        return
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("SKIPPED: playwright is not installed (extra `browser`)")
        return
    with serve(options.site) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox"],  # it sees this site alone, and CI may run as root
        )
        print(f"Chromium {browser.version}")
        problems = [
            *(
                f"{screen}: {problem}"
                for screen, settings in SCREENS.items()
                for problem in visit(
                    browser.new_context(**settings), base, screen, options.screenshots
                )
            ),
            *search(browser.new_context(**SCREENS["desktop"]), base),
        ]
        browser.close()
    for problem in problems:
        print(f"FAILED: {problem}")
    if problems:
        sys.exit(1)
    print(
        f"{len(PAGES)} pages on {len(SCREENS)} screens, {len(SEARCHES)} searches: fine"
    )


class serve:
    """The folder on a free port of the loopback device."""

    def __init__(self, folder):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_):
        self.server.shutdown()


def watch(context, base):
    """A page of the context, and the list of what goes wrong on it."""
    page, problems = context.new_page(), []

    def console(message):
        if message.type in ("error", "warning"):
            problems.append(f"console: {message.text}")

    def request(request):
        if not request.url.startswith((base, "data:", "blob:")):
            problems.append(f"leaves the site: {request.url}")

    def response(response):
        if response.status >= 400:
            problems.append(f"{response.status}: {response.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    page.on("request", request)
    page.on("requestfailed", lambda r: problems.append(f"not loaded: {r.url}"))
    page.on("response", response)
    return page, problems


# Pictures load as they come into view: call all of them, then say which did not come.
PICTURES = """async () => {
    const visible = image => getComputedStyle(image).display != "none";
    const shown = [...document.images].filter(visible);
    const load = image => { image.loading = "eager"; return image.decode(); };
    await Promise.allSettled(shown.map(load));
    const wrong = shown.filter(image => !image.naturalWidth || !image.alt.trim());
    return {shown: shown.length, wrong: wrong.map(image => image.src)};
}"""


def visit(context, base, screen, screenshots):
    """What is wrong with the pages on this screen."""
    for name, path in PAGES.items():
        page, problems = watch(context, base)
        page.goto(base + path, wait_until="load")
        pictures = page.evaluate(PICTURES)
        problems += [f"picture or its text missing: {p}" for p in pictures["wrong"]]
        if name == "gallery" and pictures["shown"] < 50:
            problems.append(f"only {pictures['shown']} pictures")
        width = page.evaluate("document.documentElement.scrollWidth")
        if (over := width - page.viewport_size["width"]) > 0:
            problems.append(f"{over} pixels wider than the screen")
        page.wait_for_load_state("networkidle")
        if screenshots:
            page.screenshot(path=screenshots / f"{name}-{screen}.png")
        yield from (f"/{path}: {problem}" for problem in problems)
        page.close()


# The first results, once the list has settled: it is built anew while one types.
RESULTS = """() => [...document.querySelectorAll("a.md-search-result__link")]
    .slice(0, 3).map(link => link.href)"""


def search(context, base):
    """What is wrong with the search."""
    for text, targets in SEARCHES.items():
        page, problems = watch(context, base)
        page.goto(base, wait_until="load")
        page.locator("input.md-search__input").click()
        page.keyboard.type(text)
        found = []
        for _ in range(60):
            page.wait_for_timeout(500)
            found, before = page.evaluate(RESULTS), found
            if found and found == before:
                break
        if not any(target in link for link in found for target in targets):
            problems.append(f"leads to {found}")
        yield from (f"search for {text!r}: {problem}" for problem in problems)
        page.close()


if __name__ == "__main__":
    main()
