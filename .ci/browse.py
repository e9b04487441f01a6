"""Looks at the built site as a reader would, in a headless Chromium.

    python .ci/browse.py SITE [--screenshots FOLDER]

opens every page on a desktop and on a phone, one in light and one in dark colours; with
--screenshots both in both, to look at. It fails on:

- an error in the console, a request that leaves the site or finds nothing;
- a picture that is missing or has no alternative text;
- a page that is wider than the screen, a table or code that is cut off;
- a brace that is smaller than what it embraces;
- a copy button that copies prompts or output;
- another library's name that links to a loss of jaxloss;
- a search that does not lead where it should.

Without Chromium or playwright it says so, and does nothing.
"""

import argparse
import functools
import http.server
import pathlib
import shutil
import sys
import threading

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
# What is typed, and where the first result has to lead. The tables of coming-from add
# the names in optax and the classes of PyTorch and Keras.
SEARCHES = {
    "cross entropy": "api/multiclass/",
    "InfoNCE": "api/contrast/",
    "triplet": "api/embedding/",
    "ignore_index": "api/multiclass/",
    "KL divergence": "api/divergence/",
    "class weights": "recipes/",
    "gradient accumulation": "recipes/",
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
        pages = sorted(
            f"{path.parent.relative_to(options.site).as_posix()}/".removeprefix("./")
            for path in options.site.rglob("index.html")
        )
        problems = []
        for screen, settings in SCREENS.items():
            schemes = ["light", "dark"] if options.screenshots else []
            for scheme in schemes or [settings["color_scheme"]]:
                context = browser.new_context(**settings | {"color_scheme": scheme})
                shots = options.screenshots
                for page in pages:
                    name = f"{page.replace('/', '-') or 'start-'}{screen}-{scheme}.png"
                    problems += visit(context, base, page, shots and shots / name)
        context = browser.new_context(**SCREENS["desktop"])
        problems += copy(context, base)
        names, linked = elsewhere(context, base)
        problems += [f"{name} links to a loss of jaxloss" for name in linked]
        problems += search(context, base, names | SEARCHES)
        browser.close()
    for problem in problems:
        print(f"FAILED: {problem}")
    if problems:
        sys.exit(1)
    print(
        f"{len(pages)} pages on {len(SCREENS)} screens, "
        f"{len(names | SEARCHES)} searches: fine"
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


# Code and tables that are wider than their box, and braces lower than their rows.
CUT_OFF = """() => {
    const wide = [...document.querySelectorAll(
        ".md-content pre > code, .md-typeset__scrollwrap, .md-content table"
    )].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth);
    const low = [...document.querySelectorAll("mtable")].filter(rows => {
        const brace = rows.parentElement.querySelector(":scope > mo");
        return brace && brace.textContent == "{" &&
            brace.getBoundingClientRect().height <
            0.8 * rows.getBoundingClientRect().height;
    });
    const start = e => e.textContent.trim().slice(0, 40);
    return [...wide.map(e => `cut off: ${start(e)}`),
        ...low.map(e => `too small a brace: ${start(e)}`)];
}"""


def visit(context, base, path, screenshot):
    """What is wrong with a page on this screen."""
    page, problems = watch(context, base)
    page.goto(base + path, wait_until="load")
    pictures = page.evaluate(PICTURES)
    problems += [f"picture or its text missing: {p}" for p in pictures["wrong"]]
    if path == "gallery/" and pictures["shown"] < 50:
        problems.append(f"only {pictures['shown']} pictures")
    screen = page.viewport_size["width"]
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > screen:
        problems.append(f"{width - screen} pixels wider than the screen")
    page.wait_for_load_state("networkidle")
    problems += page.evaluate(CUT_OFF)
    if screenshot:
        page.screenshot(path=screenshot, full_page=True)
    page.close()
    return [f"/{path} at {screen}: {problem}" for problem in problems]


def copy(context, base):
    """What is wrong with the text that the button beside the first example copies."""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, problems = watch(context, base)
    page.goto(base, wait_until="load")
    shown = page.locator("pre", has=page.locator(".gp")).first
    page.locator("button[data-md-type=copy]").first.click()
    page.wait_for_timeout(300)
    copied = page.evaluate("navigator.clipboard.readText()")
    lines = shown.inner_text().splitlines()
    typed = [x[4:] for x in lines if x.startswith((">>> ", "... "))]
    if copied.splitlines() != typed or not typed:
        problems.append(f"copied {copied!r} of {lines}")
    page.close()
    return [f"copy: {problem}" for problem in problems]


# By table of coming-from: the other library's names, and where the call here leads.
ROWS = """() => ["optax", "pytorch", "keras"].flatMap(id => {
    const table = document.querySelector(`#${id} ~ .md-typeset__scrollwrap table`);
    return [...table.tBodies[0].rows].map(row => {
        const cells = [...row.cells];
        const call = cells.findIndex(cell => cell.dataset.label == "jaxloss");
        const names = cells.slice(0, call).flatMap(cell =>
            [...cell.querySelectorAll("code")].map(code => code.textContent)
        ).filter(name => id == "optax" || name[0] != name[0].toLowerCase());
        const linked = cells[0].querySelector("a") != null;
        return {id, names, linked, to: cells[call].querySelector("a").href};
    });
})"""


def elsewhere(context, base):
    """The names of other libraries with the page of the loss; those that are links."""
    page, _ = watch(context, base)
    page.goto(base + "coming-from/", wait_until="load")
    names, linked = {}, []
    for row in page.evaluate(ROWS):
        linked += row["names"] if row["linked"] else []
        target = row["to"].removeprefix(base).split("#")[0]
        for name in row["names"]:
            names[f"nn.{name}" if row["id"] == "pytorch" else name] = target
    page.close()
    return names, linked


# The first results, and how many there are, once the list has settled.
RESULTS = """() => [...document.querySelectorAll("a.md-search-result__link")]
    .slice(0, 3).map(link => link.href)"""


def search(context, base, searches):
    """What is wrong with the searches, which are typed one after the other."""
    page, problems = watch(context, base)
    page.goto(base, wait_until="load")
    field = page.locator("input.md-search__input")
    field.click()
    for text, target in searches.items():
        field.fill("")
        page.keyboard.press("End")
        page.wait_for_function("!document.querySelector('a.md-search-result__link')")
        field.fill(text)
        page.keyboard.press("End")
        found, before = [], None
        for _ in range(60):
            page.wait_for_timeout(100)
            found, before = page.evaluate(RESULTS), found
            if found and found == before:
                break
        if not (found and found[0].removeprefix(base).startswith(target)):
            problems.append(f"{text!r} leads to {found}, not to {target}")
    page.close()
    return [f"search: {problem}" for problem in problems]


if __name__ == "__main__":
    main()
