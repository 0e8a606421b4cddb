// node images.mjs HOST:PORT SDK: the Images API with an SDK; prints the images, as JSON.
import { report } from "./report.mjs";

const [, , address, sdk] = process.argv;
const apiKey = "none";
const prompt = "a fox";
const size = "256x256";

const SDKS = {
  openai: async () => {
    const { default: OpenAI, toFile } = await import("openai");
    const { images } = new OpenAI({ baseURL: `http://${address}/v1`, apiKey, maxRetries: 0 });
    const given = { model: "gpt-image-1", prompt, size };
    const file = async (image) =>
      toFile(Buffer.from(image, "base64"), "../fox.png", { type: "image/png" });
    const base64 = ({ data }) => data.map(({ b64_json }) => b64_json);
    const last = async (stream) => {
      const types = [];
      let image;
      for await (const event of stream) {
        types.push(event.type);
        image = event.b64_json;
      }
      return { types, image };
    };
    return {
      plain: async () => base64(await images.generate({ ...given, n: 2 })),
      stream: async () => last(await images.generate({ ...given, stream: true, partial_images: 1 })),
      edited: async () => {
        const [image] = base64(await images.generate(given));
        const files = [await file(image), await file(image)];
        return base64(await images.edit({ ...given, image: files, mask: files[0] }));
      },
      edited_stream: async () => {
        const [image] = base64(await images.generate(given));
        return last(await images.edit({ ...given, image: await file(image), stream: true }));
      },
      refused: async () => {
        try {
          await images.generate({ ...given, response_format: "url" });
        } catch ({ status, param }) {
          return [status, param];
        }
      },
    };
  },
  ai: async () => {
    const { generateImage } = await import("ai");
    const { createOpenAI } = await import("@ai-sdk/openai");
    const openai = createOpenAI({ baseURL: `http://${address}/v1`, apiKey });
    const given = { model: openai.image("gpt-image-1"), size, maxRetries: 0 };
    const base64 = ({ images }) => images.map((image) => image.base64);
    return {
      plain: async () => base64(await generateImage({ ...given, prompt, n: 2 })),
      edited: async () => {
        const { image } = await generateImage({ ...given, prompt });
        const edit = { text: prompt, images: [image.uint8Array, image.uint8Array] };
        return base64(await generateImage({ ...given, prompt: { ...edit, mask: image.uint8Array } }));
      },
    };
  },
  "openrouter-1.3": async () => {
    const { OpenRouter } = await import("openrouter-1.3");
    const { images } = new OpenRouter({ apiKey, serverURL: `http://${address}/api/v1` });
    const given = { model: "m", prompt, size };
    const send = (changed) =>
      images.generate({ imageGenerationRequest: { ...given, ...changed } });
    const reference = (image) => ({
      type: "image_url",
      imageUrl: { url: `data:image/png;base64,${image}` },
    });
    return {
      plain: async () => (await send({ n: 2 })).data.map(({ b64Json }) => b64Json),
      stream: async () => {
        const types = [];
        let image;
        for await (const event of await send({ stream: true })) {
          const { type, b64Json } = event.data ?? event;
          types.push(type);
          image = b64Json;
        }
        return { types, image };
      },
      edited: async () => {
        const [image] = (await send()).data.map(({ b64Json }) => b64Json);
        const changed = await send({ inputReferences: [reference(image), reference(image)] });
        return changed.data.map(({ b64Json }) => b64Json);
      },
    };
  },
};

await report(await SDKS[sdk]());
