// Draws a fox: node dist/draw.js ADDRESS FILE
// README: begin
import { writeFile } from "node:fs/promises";
import { connect, explain, streamImage } from "./client.js";

const [address = "127.0.0.1:50051", file = "fox.png"] = process.argv.slice(2);
const client = connect(address);
try {
  await writeFile(file, await streamImage(client, { prompt: "a red fox in the snow" }));
} catch (error) {
  console.error(explain(error as Error));
  process.exitCode = 1;
} finally {
  client.close();
}
// README: end
