// The search of a site that is opened from a folder: browsers start no worker from a file, so the
// worker's script runs in a hidden frame of the page instead.
(() => {
  if (location.protocol !== "file:") return;
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      this.inside = this.frame.contentWindow;
      const page = this.inside.document;
      page.open();
      page.write("<body></body>");
      page.close();
      const load = name => new Promise((loaded, failed) => {
        const script = page.createElement("script");
        script.src = name;
        script.onload = loaded;
        script.onerror = failed;
        page.body.append(script);
      });
      this.inside.importScripts = (...names) =>
        names.reduce((last, name) => last.then(() => load(name)), Promise.resolve());
      this.inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = load(url);
    }
    postMessage(data) {
      this.ready.then(() =>
        this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
})();
