// Shows a fox, or why there is none. The query may have the address: ?server=http://HOST:PORT
// README: begin
import { connect, explain, streamImage } from "./client";

const server = new URLSearchParams(location.search).get("server") ?? "http://127.0.0.1:8081";
const client = connect(server, sessionStorage.getItem("imagecall-token"));
try {
  const fox = new Image();
  fox.src = URL.createObjectURL(await streamImage(client, { prompt: "a red fox in the snow" }));
  await fox.decode();
  document.body.append(fox);
} catch (error) {
  document.body.append(explain(error));
}
// README: end
document.title = "done";
