"""The page of the HTTP door, in a real browser."""

import asyncio
import functools
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import imagecall
from imagecall.access.admission import Admission
from imagecall.access.tokens import Tokens
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.doors.http.server import HttpServer
from imagecall.generation.backend import Backend
from tests.streams import PNG, framed, happy, item, numbered, response, without
from tests.upstream import HANG, Upstream, upstream

_SECONDS: Final = 30
_SEEN: Final = """
window.seen = [];
new MutationObserver(changes => {
    for (const change of changes) for (const node of change.addedNodes)
        if (node.tagName === "IMG") seen.push([node.alt, node.naturalWidth > 0]);
}).observe(document.getElementById("pictures"), {childList: true, subtree: true});
"""


@dataclass(frozen=True)
class Page:
    """The page, opened in the browser. Its methods wait, and so run in threads."""

    browser: webdriver.Chrome
    origin: str

    async def do(self, act: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(act, *arguments)

    async def run(self, script: str, *arguments: Any) -> Any:
        return await self.do(self.browser.execute_script, script, *arguments)

    async def text(self, selector: str) -> str:
        found = self.browser.find_element
        return str(await self.do(lambda: found(By.CSS_SELECTOR, selector).text))

    async def click(self, name: str) -> None:
        await self.do(lambda: self.browser.find_element(By.ID, name).click())

    async def choose(self, **values: str) -> None:
        for name, value in values.items():
            await self.run(
                "document.getElementById(arguments[0]).value = arguments[1]", name, value
            )

    async def until(self, condition: str) -> None:
        """Waits until the JavaScript expression is true."""
        waiting = WebDriverWait(self.browser, _SECONDS, 0.02)
        script = f"return Boolean({condition})"
        await self.do(waiting.until, lambda browser: browser.execute_script(script), condition)

    async def generate(self) -> str:
        """Presses Generate; returns the state at the end."""
        await self.click("generate")
        await self.until("controller === null")
        return await self.text("#state")

    async def convert(self, text: str) -> None:
        await self.choose(item=text)
        await self.click("convert")
        await self.until(
            "/^(Converted.)?$/.test(document.querySelector('#convert-state').innerText)"
        )

    async def facts(self, selector: str) -> dict[str, str]:
        script = """return [...document.querySelector(arguments[0]).querySelectorAll('dt')]
            .map(term => [term.textContent, term.nextSibling.textContent])"""
        return dict(await self.run(script, selector))

    async def error(self, part: str = "generate") -> str:
        return (await self.text(f"#{part}-error")).replace("\n", " | ")

    def complaints(self) -> list[str]:
        """Returns the console's messages, without error answers, which browsers log too."""
        entries = self.browser.get_log("browser")  # type: ignore[no-untyped-call] # it has none
        return [entry["message"] for entry in entries if entry["source"] != "network"]

    def requested(self) -> set[str]:
        """Returns the origins, or schemes, of all URLs that the page requested."""
        entries = self.browser.get_log("performance")  # type: ignore[no-untyped-call] # it has none
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and message["params"]["documentURL"].startswith(self.origin)
        ]
        inner = ("data:", "blob:")
        return {url[:5] if url.startswith(inner) else "/".join(url.split("/")[:3]) for url in urls}


@asynccontextmanager
async def opened(
    browser: webdriver.Chrome,
    backend: Backend,
    admission: Admission | None = None,
    **options: Any,
) -> AsyncIterator[Page]:
    """Opens the page of a real door before a backend. At the end the console has no messages."""
    door = HttpServer("127.0.0.1:0", backend, admission, **options)
    page = Page(browser, f"http://{await door.start()}")
    try:
        await page.do(page.requested)
        await page.do(browser.get, page.origin)
        yield page
        assert await page.do(page.complaints) == []
        assert await page.do(page.requested) <= {page.origin, "data:", "blob:"}
    finally:
        await page.do(browser.get, "about:blank")
        await door.stop(0)
        await backend.close()


@pytest.fixture
async def page(chromium: webdriver.Chrome) -> AsyncIterator[Page]:
    """The page before the embedded backend."""
    async with opened(chromium, EmbeddedBackend()) as page:
        yield page


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def bridge(chromium: webdriver.Chrome, api: Upstream) -> AsyncIterator[Page]:
    """The page before an API."""
    async with opened(chromium, HttpBackend(api.url, "sk-secret")) as page:
        yield page


async def test_a_token_is_asked_for_and_sent(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("alice alices-token-0123456789\n")
    admission = Admission(tokens=Tokens(file))
    async with opened(chromium, EmbeddedBackend(), admission) as page:
        assert await page.run("return document.getElementById('token-label').hidden")
        assert not (await page.generate()).startswith("Done in ")
        assert not await page.run("return document.getElementById('token-label').hidden")
        await page.choose(token="alices-token-0123456789", quality="low")
        assert (await page.generate()).startswith("Done in ")


async def _image_from(origin: str, tool: dict[str, Any], prompt: str) -> bytes:
    """The image that the door answers, without the page."""
    body = {"input": prompt, "tools": [{"type": "image_generation"} | tool]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{origin}/v1/responses", json=body) as answer,
    ):
        call, _ = (await answer.json())["output"]
        return b64decode(call["result"])


async def test_generating_shows_the_partial_images_and_then_the_image_with_its_facts(
    page: Page,
) -> None:
    prompt = "a blue lighthouse by the sea"
    await page.run(_SEEN)
    await page.choose(prompt=prompt, size="1536x1024", quality="low", output_format="webp")
    assert (await page.generate()).startswith("Done in ")
    tool = {"size": "1536x1024", "quality": "low", "output_format": "webp", "partial_images": 2}
    image = await _image_from(page.origin, tool, prompt)
    assert await page.run("return seen") == [
        ["partial image 1 of 2", True],
        ["partial image 2 of 2", True],
        [prompt, True],
    ]
    assert await page.facts("#pictures") == {
        "Format": "webp",
        "Pixels": "1536 x 1024",
        "Bytes": f"{len(image):,}",
        "SHA-256": hashlib.sha256(image).hexdigest(),
    }
    script = "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.alt])"
    assert await page.run(script) == [[1536, 1024, prompt]]
    log = await page.text("#log")
    assert log.index("image_generation_call.generating") < log.index("partial_image")
    assert log.endswith("[DONE]")


async def test_the_download_has_the_bytes_of_the_image_and_its_suffix(page: Page) -> None:
    await page.choose(prompt="Ein Fuchs, ein Wald!", output_format="jpeg", partial_images="0")
    await page.generate()
    script = "const a = document.querySelector('#pictures a'); return [a.download, a.href]"
    name, url = await page.run(script)
    assert name == "ein-fuchs-ein-wald-.jpeg"
    assert url.startswith(f"blob:{page.origin}/")
    image = await _image_from(page.origin, {"output_format": "jpeg"}, "Ein Fuchs, ein Wald!")
    assert await page.facts("#pictures") == {
        "Format": "jpeg",
        "Pixels": "1024 x 1024",
        "Bytes": f"{len(image):,}",
        "SHA-256": hashlib.sha256(image).hexdigest(),
    }


async def test_where_the_browser_computes_no_digests_the_page_says_so(page: Page) -> None:
    await page.run("Object.defineProperty(crypto, 'subtle', {value: undefined})")
    await page.generate()
    digest = (await page.facts("#pictures"))["SHA-256"]
    assert digest == "not computed: browsers do so only over https or on localhost"


async def test_a_refusal_is_shown_with_its_code_and_place(page: Page) -> None:
    await page.choose(output_format="jpeg", background="transparent")
    assert (await page.generate()).startswith("Failed after ")
    assert await page.error() == (
        "Not generated: a JPEG file cannot be transparent "
        "| code 400 · unsupported · at /tools/0/background"
    )
    await page.choose(background="auto")
    assert (await page.generate()).startswith("Done in ")
    assert await page.error() == ""


async def test_an_api_that_cannot_be_reached_is_said(chromium: webdriver.Chrome) -> None:
    async with opened(chromium, HttpBackend("http://127.0.0.1:9/v1", "")) as page:
        assert (await page.generate()).startswith("Failed after ")
        error = await page.error()
        assert error.startswith("Not generated: ")
        assert error.endswith("| code 503 · upstream_unreachable")


async def test_a_server_that_has_gone_is_said(chromium: webdriver.Chrome) -> None:
    backend = EmbeddedBackend()
    door = HttpServer("127.0.0.1:0", backend)
    page = Page(chromium, f"http://{await door.start()}")
    await page.do(chromium.get, page.origin)
    await door.stop(0)
    await page.generate()
    assert "cannot be reached; is it still running?" in await page.error()
    await page.convert("{}")
    assert "cannot be reached; is it still running?" in await page.error("convert")


async def test_an_error_in_mid_stream_leaves_the_partial_image_as_not_finished(
    bridge: Page, api: Upstream
) -> None:
    error = {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None}
    api.say(framed([*happy(partials=[PNG])[:6], error]))
    assert (await bridge.generate()).startswith("Failed after ")
    assert "slow down" in await bridge.error()
    assert "code 429" in await bridge.error()
    assert await bridge.text("figcaption") == "partial image 1 of 2, not finished"


async def test_a_response_that_failed_is_an_error(bridge: Page, api: Upstream) -> None:
    failed = response(status="failed", error={"code": "server_error", "message": "no more ink"})
    api.say(framed([*happy()[:5], {"type": "response.failed", "response": failed}]))
    await bridge.generate()
    assert await bridge.error() == (
        "Not generated: the response ended as failed: no more ink | code server_error"
    )


async def test_a_response_without_an_image_shows_what_the_model_says(
    bridge: Page, api: Upstream
) -> None:
    said = {"type": "output_text", "text": "I <b>cannot</b> draw that.", "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [said]}
    final = response(message | {"status": "completed"})
    api.say(framed(numbered([happy()[0], {"type": "response.completed", "response": final}])))
    await bridge.generate()
    assert await bridge.error() == (
        "Not generated: the response has no image; the model wrote: I <b>cannot</b> draw that."
    )


async def test_an_image_that_only_the_response_at_the_end_has_is_shown(
    bridge: Page, api: Upstream
) -> None:
    api.say(framed(without(happy(), "output_item.done")))
    assert (await bridge.generate()).startswith("Done in ")
    assert (await bridge.facts("#pictures"))["SHA-256"] == hashlib.sha256(PNG).hexdigest()


async def test_an_image_after_an_item_of_another_type_has_one_picture(
    bridge: Page, api: Upstream
) -> None:
    events = [
        event | {"output_index": 1} if "output_index" in event else event
        for event in happy(partials=[PNG])
    ]
    api.say(framed(events))
    await bridge.generate()
    assert await bridge.run("return document.querySelectorAll('figure').length") == 1


async def test_stop_ends_the_request(bridge: Page, api: Upstream) -> None:
    api.say(framed(happy(partials=[PNG])[:6], done=False), HANG)
    await bridge.click("generate")
    await bridge.until("document.querySelector('#pictures img')")
    await bridge.click("stop")
    await api.left.wait()
    await bridge.until("controller === null")
    assert (await bridge.text("#state")).startswith("Stopped after ")
    assert await bridge.error() == ""
    assert await bridge.text("figcaption") == "partial image 1 of 2, not finished"


async def test_the_keyboard_starts_and_stops(bridge: Page, api: Upstream) -> None:
    api.say(HANG)
    await bridge.run("document.getElementById('generate').focus()")
    press = bridge.browser.switch_to
    await bridge.do(lambda: press.active_element.send_keys("\ue007"))
    await bridge.until("document.activeElement.id === 'stop'")
    await bridge.do(lambda: press.active_element.send_keys("\ue007"))
    await bridge.until("document.activeElement.id === 'generate'")
    assert (await bridge.text("#state")).startswith("Stopped after ")


async def test_every_field_has_a_label(page: Page) -> None:
    script = """return [...document.querySelectorAll('input, select, textarea')]
        .filter(field => !field.labels.length || !field.labels[0].textContent.trim())
        .map(field => field.id)"""
    assert await page.run(script) == []


async def test_a_pasted_item_is_shown_as_protobuf_with_both_sizes_and_its_picture(
    page: Page,
) -> None:
    text = json.dumps(item(PNG, seed=1.5), indent=2)
    await page.convert(text)
    size = imagecall.from_json(text).ByteSize()
    assert await page.text("#message-bytes") == f"{size:,} bytes"
    assert await page.text("#json-bytes") == f"{len(text):,} bytes"
    assert f" {100 * size / len(text):.1f} % " in await page.text("#percentage")
    shown = await page.text("#text")
    assert shown.startswith("# The first 64 bytes of each image.\noutput_image_generation_call {")
    assert 'name: "seed"' in shown
    assert await page.facts("#item-facts") == {
        "Variant": "output_image_generation_call",
        "Status": "completed",
    }
    assert await page.facts("#item-picture") == {
        "Format": "png",
        "Pixels": "1 x 1",
        "Bytes": f"{len(PNG):,}",
        "SHA-256": hashlib.sha256(PNG).hexdigest(),
    }


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(response({"type": "reasoning", "id": "rs_1"}, item(PNG, seed=1.5)), indent=1),
        framed(happy(partials=[PNG], done=item(PNG, seed=1.5)), named=True).decode(),
        framed(without(happy(done=item(PNG, seed=1.5)), "item.done"))
        .decode()
        .replace("\n", "\r\n"),
    ],
    ids=["response", "stream", "stream without the event of the item"],
)
async def test_the_item_of_a_pasted_response_or_stream_is_shown(page: Page, text: str) -> None:
    await page.convert(text)
    facts = await page.facts("#item-picture")
    assert facts["SHA-256"] == hashlib.sha256(PNG).hexdigest()
    assert 'json: "1.5"' in await page.text("#text")


async def test_the_shown_message_is_copied(page: Page) -> None:
    await page.run(
        """window.copied = [];
        navigator.clipboard.writeText = text => (copied.push(text), Promise.resolve())"""
    )
    await page.convert(json.dumps(item()))
    await page.click("copy")
    await page.until("document.querySelector('#convert-state').innerText === 'Copied.'")
    shown = await page.run("return document.getElementById('text').textContent")
    assert await page.run("return copied") == [shown]


async def test_the_item_just_generated_is_converted_with_its_numbers_as_they_were_spelled(
    bridge: Page, api: Upstream
) -> None:
    stream = framed(happy(done=item(PNG, seed=1.5))).replace(b'"seed": 1.5', b'"seed": 1.50')
    api.say(stream)
    await bridge.generate()
    await bridge.click("use-item")
    await bridge.until("document.querySelector('#item-picture img')")
    given = await bridge.run("return document.getElementById('item').value")
    assert '"seed":1.50' in given
    assert imagecall.view(imagecall.from_json(given)).image == PNG
    assert 'json: "1.50"' in await bridge.text("#text")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            '{"type":"image_generation_call","id":5}',
            '"id" must be a string, not a number | code 400 · wrong_type · at /id',
        ),
        (
            '{"type":"image_generation_call","<img src=x onerror=alert(1)>":[0,{"a":1,"a":2}]}',
            " | code 400 · duplicate_key · at /<img src=x onerror=alert(1)>/1/a",
        ),
        ("{", "| code 400 · not_json"),
    ],
)
async def test_a_bad_item_is_shown_with_its_place(page: Page, text: str, error: str) -> None:
    await page.convert(text)
    shown = await page.error("convert")
    assert shown.startswith("Not converted: ")
    assert shown.endswith(error)


async def test_what_comes_from_an_item_goes_in_as_text(page: Page) -> None:
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    await page.convert(json.dumps(item(attack, id=attack, status=attack, size=attack)))
    assert attack in await page.text("#text")
    assert (await page.facts("#item-facts"))["Status"] == attack
    assert await page.run("return document.images.length") == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", ""),
        (
            "embedded",
            "the backend embedded, which draws test cards: nothing is billed.",
        ),
        (
            'https://a"><b>',
            'the backend https://a"><b>, which may bill each of them.',
        ),
    ],
)
async def test_the_page_names_its_backend(
    chromium: webdriver.Chrome, name: str, shown: str
) -> None:
    async with opened(chromium, EmbeddedBackend(), backend_name=name) as page:
        text = await page.text("#backend")
        assert text == (shown and f"Images come from {shown}")


async def test_the_tokens_and_the_cost_of_a_response_are_shown(bridge: Page, api: Upstream) -> None:
    usage = {"input_tokens": 1234, "output_tokens": 5, "cost": 0.04}
    tools = {"image_gen": {"input_tokens": 10, "output_tokens": 100}}
    *events, end = happy()
    end["response"] |= {"usage": usage, "tool_usage": tools}
    api.say(framed([*events, end]))
    await bridge.generate()
    assert await bridge.text("#usage") == (
        "1,234 input and 5 output tokens · "
        "image model: 10 input and 100 output tokens · cost 0.04 credits"
    )


async def test_an_input_image_is_sent_beside_the_prompt(bridge: Page, api: Upstream) -> None:
    api.say(framed(happy()))
    choose = """const transfer = new DataTransfer();
        transfer.items.add(new File([bytesOf(arguments[0])], "fox.png", {type: "image/png"}));
        document.getElementById("input_image").files = transfer.files"""
    data = b64encode(PNG).decode()
    await bridge.run(choose, data)
    await bridge.choose(prompt="bluer")
    assert (await bridge.generate()).startswith("Done in ")
    [message] = api.requests[0].body["input"]
    url = f"data:image/png;base64,{data}"
    assert message["content"] == [
        {"type": "input_text", "text": "bluer"},
        {"type": "input_image", "detail": "auto", "image_url": url},
    ]


async def test_an_earlier_image_of_the_session_comes_back_with_its_settings(page: Page) -> None:
    await page.choose(prompt="a red fox", size="1536x1024", quality="low")
    await page.generate()
    first = await page.facts("#pictures")
    await page.choose(prompt="a blue ship", size="1024x1024", quality="low")
    await page.generate()
    assert await page.facts("#pictures") != first
    await page.until("document.querySelectorAll('#history button').length === 1")
    await page.run("document.querySelector('#history button').click()")
    await page.until("document.querySelector('#pictures dd.mono')")
    assert await page.facts("#pictures") == first
    script = "return ['prompt', 'size'].map(name => document.getElementById(name).value)"
    assert await page.run(script) == ["a red fox", "1536x1024"]


_LARGE: Final = "ß" * 1_500_000
_STREAM: Final = [": a comment", "event: one", "data: {", "data:  €", "data", "", "data:two", ""]
_EVENTS: Final = [["one", "{\n €\n"], ["", "two"], ["", "no blank line"]]
_READ: Final = """
const [base64, size, done] = arguments, bytes = bytesOf(base64), events = [];
const stream = new ReadableStream({start(controller) {
    for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
    controller.close();
}});
readEvents(stream, (name, data) => events.push([name, data])).then(() => done(events));
"""


async def test_events_are_read_wherever_their_bytes_are_split(page: Page) -> None:
    read = functools.partial(page.browser.execute_async_script, _READ)
    for end in ("\n", "\r\n", "\r"):
        data = end.join(["\ufeff: begin", *_STREAM, "data: no blank line"]).encode()
        for size in (1, 2, 3, 7, 1000):
            found = await page.do(read, b64encode(data).decode(), size)
            assert found == _EVENTS, (end, size)


async def test_data_of_megabytes_is_read_in_little_time(page: Page) -> None:
    data = f"data: {_LARGE}\r\n\r\ndata: x\n\n".encode()
    script = _READ.replace("done(events)", "done(events.map(([, data]) => data.length))")
    read = functools.partial(page.browser.execute_async_script, script)
    assert await page.do(read, b64encode(data).decode(), 1000) == [len(_LARGE), 1]
